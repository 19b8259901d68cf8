"""The end of a client: all its sessions share one time."""

import calibd
import numpy as np
import pytest
from calibd import at_exit
from calibd.contribution import Contribution

ONES = np.ones(10, np.float32)


def test_sessions_share_the_time_of_a_close(server, monkeypatch):
    timeouts = []
    close = Contribution.close

    def noted(contribution, timeout):
        timeouts.append(timeout)
        close(contribution, timeout)

    monkeypatch.setattr(Contribution, "close", noted)
    client = calibd.connect(server.address, exit_timeout=0.2)
    sessions = [client.create_session(name) for name in ("a", "b", "c")]
    for session in sessions:
        session.observe("fc", ONES)
        session.flush()
    server.stop()
    for session in sessions:
        session.observe("fc", ONES)
    with pytest.raises(ZeroDivisionError), client:
        raise ZeroDivisionError
    assert 0 < timeouts[0] <= 0.2 and timeouts[1:] == [0, 0]
    # The process's exit does not wait once more.
    waits = [at_exit._exit._open[id(session._contribution.contributor)][2] for session in sessions]
    assert waits == [0, 0, 0]
    server.start()
    client.close()
    with calibd.connect(server.address) as other:
        assert [other.session(name).qparams()[0].count for name in ("a", "b", "c")] == [20, 20, 20]
