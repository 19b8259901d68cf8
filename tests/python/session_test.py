"""Clients and sessions against a server."""

import gc
import weakref

import calibd
import numpy as np
import pytest
from calibd import Method, Observer, QuantSpec, Rule
from calibd.observe import observe

VALUES = np.random.default_rng(1).normal(size=(8, 16, 32)).astype(np.float32)


@pytest.fixture
def session(client):
    session = client.create_session(
        "s", rules=[Rule("*.weight", Observer(channel_axis=0)), Rule("p", Observer("passive")), Rule("*")]
    )
    for batch in VALUES:
        session.observe("fc", batch)
    session.observe("fc.weight", VALUES[0])
    session.observe("nothing", np.full(3, np.nan, np.float32))
    session.flush()
    return session


def test_the_target_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("CALIBD_SERVER", server.address)
    with calibd.connect() as client:
        client.health()


def test_health_of_a_server_that_is_not_there(server):
    server.stop()
    with calibd.connect(server.address) as client, pytest.raises(calibd.UnavailableError):
        client.health(timeout=0.3)


def test_a_session_is_made_once(client):
    client.create_session("s", observer="minmax")
    client.create_session("s", observer="minmax")
    with pytest.raises(calibd.AlreadyExistsError):
        client.create_session("s")
    with pytest.raises(calibd.InvalidArgumentError):
        client.create_session("t", observer="minmax", rules=[])
    with pytest.raises(calibd.InvalidArgumentError, match="world_size"):
        client.create_session("t", window=3)


def test_all_pages_of_sessions_and_layers(client):
    names = [f"s{i:04}" for i in range(1003)]
    for name in names:
        client.create_session(name)
    assert [session.name for session in client.sessions()] == names
    session = client.session(names[0])
    for name in names:
        session.observe(name, VALUES[0, 0])
    session.flush()
    assert [layer.layer for layer in session.describe().layers] == names
    assert sorted(session.statistics()) == names


def test_what_is_described(session):
    info = session.describe()
    assert [layer.layer for layer in info.layers] == ["fc", "fc.weight", "nothing"]
    fc, weight, nothing = info.layers
    assert (fc.count, fc.channels, weight.channels, nothing.nan) == (VALUES.size, 1, 16, 3)
    assert fc.min == VALUES.min() and fc.max == VALUES.max()
    assert weight.observer.channel_axis == 0
    assert len(info.workers) == 1 and info.workers[0].connected
    assert not info.sealed and info.synchronous is None and info.created.tzinfo is not None


def test_qparams(session):
    fc, weight, nothing = session.qparams(dtype="int8", per_channel=None)
    assert fc.scale.dtype == np.float32 and fc.zero_point.dtype == np.int64
    np.testing.assert_allclose(fc.scale, [np.abs(VALUES).max() / 127.5], rtol=1e-6)
    assert fc.zero_point.tolist() == [0] and (fc.qmin, fc.qmax) == (-128, 127) and fc.error is None
    assert nothing.error.reason == "LAYER_EMPTY" and nothing.scale.size == 0
    (each,) = session.qparams("*.weight", dtype="int4", per_channel=True, scheme="affine")
    assert each.scale.shape == (16,) and each.channel_axis == 0 and each.spec.dtype == "int4"
    with pytest.raises(calibd.NotFoundError):
        session.qparams("absent")


def test_methods_and_their_parameters(session):
    (mse,) = session.qparams("fc", "mse", "int4")
    (minmax,) = session.qparams("fc", dtype="int4")
    assert mse.mse <= minmax.mse and mse.method.method == "mse"
    (half,) = session.qparams("fc", "percentile", percentile=50)
    (same,) = session.qparams("fc", Method("percentile", percentile=50))
    assert half.clip_max == same.clip_max < minmax.clip_max
    with pytest.raises(calibd.InvalidArgumentError, match="percentile given beside a Method"):
        session.qparams("fc", Method("percentile"), percentile=50)
    with pytest.raises(calibd.InvalidArgumentError, match="there are minmax"):
        session.qparams("fc", "best")


def test_compare_is_by_layer_type_and_method(session):
    answers = session.compare("fc*", ["minmax", "mse"], ["int8", QuantSpec("int4", narrow_range=True)])
    assert [(a.layer, a.spec.dtype, a.method.method) for a in answers] == [
        (layer, dtype, method)
        for layer in ("fc", "fc.weight")
        for dtype in ("int8", "int4")
        for method in ("minmax", "mse")
    ]
    assert answers[2].qmin == -7


def test_statistics_are_what_was_observed(session):
    statistics = session.statistics()
    assert statistics["fc"] == observe(VALUES.reshape(-1), Observer())
    assert statistics["fc.weight"] == observe(VALUES[0], Observer(channel_axis=0))
    assert statistics["nothing"].nan.tolist() == [3]


def test_statistics_counted_elsewhere(client):
    session = client.create_session("s")
    session.observe_statistics("a", observe(VALUES, Observer()))
    session.observe("a", VALUES)
    session.flush()
    assert session.qparams()[0].count == 2 * VALUES.size


def test_passive_layers_have_what_they_are_given(session):
    session.set_qparams("p", 0.5, 3)
    (given,) = session.qparams("p")
    assert (given.scale.tolist(), given.zero_point.tolist()) == ([0.5], [3])
    for bad in (1.7, [1.7], np.array([1.0]), "3"):
        with pytest.raises(calibd.InvalidArgumentError, match="zero_point is .*must be an integer"):
            session.set_qparams("p", 0.5, bad)
    with pytest.raises(calibd.InvalidArgumentError, match="scale is '0.5'; it must be a number"):
        session.set_qparams("p", "0.5")
    assert session.qparams("p")[0].zero_point.tolist() == [3]
    session.set_qparams("p", 0.5, [np.int8(4)])
    session.set_qparams("p", np.array([0.25], np.float32))
    assert session.qparams("p")[0].scale.tolist() == [0.25]
    for scale in (np.array(0.125), np.float32(0.125), [0.125], (0.125,)):
        session.set_qparams("p", scale, np.array(4))
        (given,) = session.qparams("p")
        assert (given.scale.tolist(), given.zero_point.tolist()) == ([0.125], [4])
        session.set_qparams("p", 1.0)
    with pytest.raises(calibd.FailedPreconditionError):
        session.set_qparams("fc", 1.0)


def test_disabled_sealed_deleted(session):
    assert session.set_enabled("fc*", False) == 2
    assert [layer.enabled for layer in session.describe().layers] == [False, False, True]
    session.seal()
    session.seal()
    assert session.describe().sealed
    with pytest.raises(calibd.FailedPreconditionError):
        session.observe("fc", VALUES)
        session.flush()
    session.delete()
    with pytest.raises(calibd.NotFoundError):
        session.describe()
    session.close()


def test_deleting_a_session_ends_what_contributes_to_it(server):
    with calibd.connect(server.address) as client:
        session = client.create_session("s")
        session.observe("fc", VALUES)
        session.flush()
        ranked = client.create_session("steps", world_size=1, rank=0)
        ranked.step({"fc": VALUES[0]})
        for deleted in (session, ranked):
            with deleted:
                deleted.delete()
        assert not client._contributions
        client.create_session("s")
        session.observe("fc", VALUES)
        session.flush()
        assert session.qparams()[0].count == VALUES.size


def test_deleting_that_fails_loses_nothing(client, monkeypatch):
    session = client.create_session("s")
    session.observe("fc", VALUES)

    def refuse(name, request):
        raise calibd.PermissionDeniedError("no")

    with monkeypatch.context() as patch:
        patch.setattr(client.connection, "unary", refuse)
        with pytest.raises(calibd.PermissionDeniedError):
            session.delete()
    session.flush()
    assert session.qparams()[0].count == VALUES.size


def test_steps_need_a_rank_and_observing_none(client):
    ranked = client.create_session("s", world_size=1, rank=0)
    result = ranked.step({"fc": VALUES[0]})
    assert result.layers["fc"].max == VALUES[0].max() and ranked.next_step == 2
    assert ranked.start_step({"fc": VALUES[1]}).wait(60).step == 2
    assert ranked.world == (1, 1)
    with pytest.raises(calibd.FailedPreconditionError):
        ranked.observe("fc", VALUES[0])
    free = client.session("s")
    with pytest.raises(calibd.FailedPreconditionError):
        free.step({"fc": VALUES[0]})
    assert free.set_world(2) == (2, 2) == free.world


def test_looking_at_steps_opens_no_rank(client):
    training = client.create_session("s", world_size=1, rank=0)
    training.step({"fc": VALUES[0]})
    looking = client.session("s", rank=0)
    assert looking.next_step == 2 and looking.world == (1, 1)
    training.step({"fc": VALUES[0]})  # nobody has taken its place
    assert looking.next_step == 3
    with pytest.raises(calibd.FailedPreconditionError, match="need a rank"):
        client.session("s").next_step


def test_the_end_of_a_client_makes_everything_durable(server):
    with calibd.connect(server.address) as client:
        session = client.create_session("s")
        session.observe("fc", VALUES)
    with calibd.connect(server.address) as other:
        assert other.session("s").qparams()[0].count == VALUES.size
    with pytest.raises(calibd.FailedPreconditionError, match="closed"):
        session.describe()


def test_a_client_that_can_not_make_all_durable_stays_open(server):
    with calibd.connect(server.address) as client:
        session = client.create_session("s")
        session.observe("fc", VALUES)
        session.flush()
        server.stop()
        session.observe("fc", VALUES)
        with pytest.raises(calibd.DeadlineExceededError):
            client.close(0.1)
        session.observe("fc", VALUES)
        server.start()
        client.close()
    with calibd.connect(server.address) as other:
        assert other.session("s").qparams()[0].count == 3 * VALUES.size


def test_a_client_keeps_sessions_that_have_something_open_alone(client):
    session = client.create_session("s")
    unused = weakref.ref(client.session("s"))
    gc.collect()
    assert unused() is None and not client._contributions
    client.session("s").observe("fc", VALUES)
    gc.collect()
    assert len(client._contributions) == 1
    client.close()
    assert not client._contributions
    with calibd.connect(client.connection.target) as other:
        assert other.session(session.name).qparams()[0].count == VALUES.size


def test_an_interrupted_close_loses_nothing(client, monkeypatch):
    session = client.create_session("s")
    session.observe("fc", VALUES)

    def interrupt(timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session._contribution.contributor, "close", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.close()
    session.close()
    assert session.qparams()[0].count == VALUES.size


def test_a_layer_is_named_by_what_could_not_be_observed(client):
    session = client.create_session(
        "s", rules=[calibd.Rule("raw", calibd.Observer("reference_histogram")), calibd.Rule("*")]
    )
    for layer in ("fc", "raw"):
        with pytest.raises(calibd.InvalidArgumentError, match=f'^layer "{layer}": an array of float64'):
            session.observe(layer, np.ones(3))
