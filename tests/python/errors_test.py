"""Errors as exceptions."""

import copy
import pickle

import calibd
import pytest
from calibd import errors
from calibd.errors import CalibdError, Meaning
from calibd.rpc import calibration_service_pb2, errors_pb2, observe_pb2, quantization_pb2


def refusal(reason, code=3, **metadata):
    info = errors_pb2.ErrorInfo(reason=reason, domain="calibd", metadata=metadata)
    return errors.from_refusal(observe_pb2.Refusal(code=code, message="what", info=info))


def test_a_call_that_fails_tells_code_reason_values_and_what_to_do(client):
    with pytest.raises(calibd_error("NOT_FOUND")) as caught:
        client.session("absent").describe()
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.reason == "SESSION_NOT_FOUND"
    assert caught.value.metadata == {"session": "absent"}
    assert "absent" in str(caught.value) and "create it" in str(caught.value)


def calibd_error(code):
    return type(errors.make_error(code, ""))


def test_a_server_that_is_not_there_is_named(server):
    server.stop()
    with calibd.connect(server.address, timeout=0.3) as client:
        with pytest.raises(errors.UnavailableError, match=f"cannot reach calibd at {server.address}"):
            client.sessions()


def test_a_connection_that_is_closed_before_a_call_begins_is_named(client):
    connection = client.connection

    def call(calls, seconds):
        connection.close()
        return calls.ListSessions(calibration_service_pb2.ListSessionsRequest(), timeout=seconds)

    with pytest.raises(errors.FailedPreconditionError, match="is closed: connect again"):
        connection.repeat(call)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_is_connected_stays_in_its_process(client, duplicate):
    session = client.create_session("s")
    with pytest.raises(TypeError, match=r"Session cannot be .*connect in each process, calibd.connect\('.*'\).*'s'"):
        duplicate(session)
    with pytest.raises(TypeError, match="Client cannot be .*connect in each process"):
        duplicate(client)


def test_python_knows_values_and_time():
    assert issubclass(errors.InvalidArgumentError, ValueError)
    assert issubclass(errors.DeadlineExceededError, TimeoutError)


@pytest.mark.parametrize("code", [*errors._CLASSES, "UNKNOWN", "INTERNAL"])
def test_errors_go_from_process_to_process(code):
    error = errors.make_error(code, "what", "WHY", {"layer": "a"})
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (back.code, str(back), back.reason, back.metadata) == (code, "what", "WHY", {"layer": "a"})


def test_details_have_the_code_of_their_reason():
    detail = quantization_pb2.ErrorDetail(message="empty", info=errors_pb2.ErrorInfo(reason="LAYER_EMPTY"))
    assert errors.from_detail(detail).code == "FAILED_PRECONDITION"
    detail.info.reason = "OF_A_NEWER_SERVER"
    assert errors.from_detail(detail).code == "UNKNOWN"


def test_what_refusals_mean():
    assert errors.meaning(refusal("SEQUENCE_GAP", 11)) is Meaning.TRY_AGAIN
    assert errors.meaning(refusal("STORE_FAILED", 14)) is Meaning.TRY_AGAIN
    assert errors.meaning(refusal("SESSION_SEALED", 9)) is Meaning.WORKER_ENDS
    assert errors.meaning(refusal("WORKER_FENCED", 10)) is Meaning.WORKER_ENDS
    assert errors.meaning(refusal("CHANNEL_COUNT_CHANGED", 9)) is Meaning.DATA_REFUSED
    assert errors.meaning(refusal("LIMIT_EXCEEDED", 8, option="--max-channels")) is Meaning.DATA_REFUSED
    assert errors.meaning(refusal("LIMIT_EXCEEDED", 8, option="--max-state-bytes")) is Meaning.TRY_AGAIN


def test_which_streams_are_worth_another():
    assert errors.can_reopen_after(None)
    assert errors.can_reopen_after(errors.UnavailableError("away"))
    assert errors.can_reopen_after(CalibdError("?"))
    assert not errors.can_reopen_after(errors.AbortedError("fenced"))
    assert not errors.can_reopen_after(errors.UnauthenticatedError("who?"))
