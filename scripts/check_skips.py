"""Read a report of pytest: a skipped test is a failure, unless a GPU, own data or mounts are not there."""

import sys
from xml.etree import ElementTree

EXCUSES = ("no CUDA device", "CLF_SHARED_DATA is not set", "no mounts of one's own")

cases = list(ElementTree.parse(sys.argv[1]).iter("testcase"))
skips = [(case, skip) for case in cases for skip in case.iter("skipped") if skip.get("type") != "pytest.xfail"]
unexcused = [(case, skip) for case, skip in skips if not skip.get("message", "").startswith(EXCUSES)]
for case, skip in unexcused:
    print(f"skipped: {case.get('classname')}.{case.get('name')}: {skip.get('message')}: {skip.text}", file=sys.stderr)
print(f"{len(cases)} tests, {len(skips)} skipped, {len(unexcused)} of them without an excuse")
sys.exit(bool(unexcused) or not cases)
