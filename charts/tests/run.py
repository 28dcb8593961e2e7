"""Runs the tests of the chart: every function test_* of the modules beside this one, or those named."""

import importlib
import pathlib
import sys
import time
import traceback


def tests():
    here = pathlib.Path(__file__).parent
    for file in sorted(here.glob("test_*.py")):
        module = importlib.import_module(file.stem)
        for name in sorted(vars(module)):
            if name.startswith("test_"):
                yield name, getattr(module, name)


def main(wanted):
    begin, failed, count = time.monotonic(), [], 0
    known = dict(tests())
    for name in wanted:
        if name not in known:
            print(f"no test {name}; there are: {' '.join(known)}", file=sys.stderr)
            return 2
    for name, test in known.items():
        if wanted and name not in wanted:
            continue
        count += 1
        try:
            test()
            print(f"passed {name}")
        except Exception:  # a test may fail in any way
            failed.append(name)
            print(f"FAILED {name}\n{traceback.format_exc()}")
    print(f"chart: {count - len(failed)} of {count} tests passed in {time.monotonic() - begin:.1f} s")
    return 1 if failed or not count else 0


sys.exit(main(sys.argv[1:]))
