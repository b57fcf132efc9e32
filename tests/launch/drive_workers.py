"""launch/workers.py with a fake trainer and other times: drive_workers.py TIMES-AS-JSON ARG ..."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "launch"))
import workers  # noqa: E402

fake = pathlib.Path(__file__).with_name("fake_worker.py")
sys.exit(workers.main(sys.argv[2:], [sys.executable, "-I", "-S", str(fake)],
                      workers.Times(**json.loads(sys.argv[1]))))
