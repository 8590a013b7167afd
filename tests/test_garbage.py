"""Python looks for garbage while a command works, and neither while it starts nor when it ends."""

import subprocess
import sys

_STATES = """
import gc, sys
from clf.garbage import process_of_our_own, settled
settled()
states = [gc.isenabled(), gc.get_freeze_count() > 0]
with process_of_our_own():
    states.append(gc.isenabled())
    settled()
    states += [gc.isenabled(), gc.get_freeze_count() > 0]
    gc.unfreeze()
states += [gc.isenabled(), gc.get_freeze_count() > 0]
print(*map(int, states))
"""


def test_garbage_is_looked_for_from_when_all_is_settled_to_the_end() -> None:
    said = subprocess.run([sys.executable, "-c", _STATES], capture_output=True, text=True, check=True).stdout
    others, starting, working, ended = (1, 0), (0,), (1, 1), (0, 1)  # whether it is looked for, what is left out of it
    assert said.split() == [str(each) for each in (*others, *starting, *working, *ended)]
