"""Configs as messages and back."""

import pytest
from calibd import (
    Ema,
    InvalidArgumentError,
    Learned,
    Method,
    Observer,
    QuantSpec,
    ReferenceHistogram,
    Rule,
    SessionConfig,
    Synchronous,
)
from calibd.config import matches

CONFIG = SessionConfig(
    rules=(
        Rule("*.skip", None),
        Rule("ema*", Observer("ema", ema=Ema("pytorch", 0.25))),
        Rule("r", Observer("reference_histogram", reference_histogram=ReferenceHistogram("mxnet", 65, 999))),
        Rule("l", Observer("learned", learned=Learned("adam", beta1=0.8, initial=Method("mse", norm=2.4)))),
        Rule("q", Observer("minmax", channel_axis=-1), QuantSpec("uint4", "affine", codes=(0, 14), per_channel=True)),
        Rule("p", Observer("passive")),
        Rule("*"),
    ),
    mantissa_bits=5,
    synchronous=Synchronous(3, "close_partial", 1.5, 7),
)


def test_there_and_back():
    assert SessionConfig.from_proto(CONFIG.to_proto()) == CONFIG
    assert SessionConfig.from_proto(SessionConfig().to_proto()) == SessionConfig()


def test_the_server_fills_in_defaults_and_finds_it_equal(client):
    config = CONFIG.to_proto()
    from calibd.rpc import calibration_service_pb2 as pb

    answer = client.connection.unary("CreateSession", pb.CreateSessionRequest(session="s", config=config))
    filled = SessionConfig.from_proto(answer.session.config)
    assert filled.rules[3].observer.learned.learning_rate == 0.001
    again = pb.CreateSessionRequest(session="s", config=filled.to_proto())
    assert not client.connection.unary("CreateSession", again).created


def test_the_first_rule_that_matches_decides():
    assert CONFIG.observer_of("a.skip") is None
    assert CONFIG.observer_of("ema.skip") is None
    assert CONFIG.observer_of("ema1").kind == "ema"
    assert CONFIG.observer_of("other") == Observer()
    assert SessionConfig((Rule("a"),)).observer_of("b") is None
    assert SessionConfig().observer_of("b") == Observer()


@pytest.mark.parametrize(
    "pattern, layer, expected",
    [
        ("", "", True),
        ("*", "", True),
        ("", "a", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("?", "\u00e9", True),
        ("*a*b", "xxaybzb", True),
        ("*a*b", "xxaybz", False),
        ("[a]", "a", False),
        ("[a]", "[a]", True),
        ("a*", "a\nb", True),
        ("*" * 50 + "b", "a" * 500, False),
    ],
)
def test_globs(pattern, layer, expected):
    assert matches(pattern, layer) is expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Observer("histogramm"),
        lambda: Observer("ema", ema=Ema("torch")),
        lambda: Rule("*", quant_spec=QuantSpec("int64")),
        lambda: Synchronous(2, "later"),
        lambda: Method("median"),
    ],
)
def test_words_that_there_are_not_are_named_with_those_that_there_are(make):
    with pytest.raises(InvalidArgumentError, match="there are "):
        make().to_proto()
