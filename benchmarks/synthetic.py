"""What preparing synthetic data takes, stage by stage: `.venv/bin/python -m benchmarks.synthetic --rows 1e6`.

Memory is that of the process alone (anonymous), without files that are mapped. Rows are split 8:1:1.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

from recsys_collapse.build import build
from recsys_collapse.dataset.split import split_sizes
from recsys_collapse.dataset.store import prepare
from recsys_collapse.launch.plan import compose_jobs


def anonymous_mb() -> float:
    """Of this process, now."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1e3


def main() -> None:
    """Prepare once, and print seconds and the peak of every stage."""
    parser = argparse.ArgumentParser(prog="benchmarks.synthetic", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--preset", default="criteo39", help="of conf/dataset (criteo39)")
    parser.add_argument("--rows", type=float, default=1e6, help="in all (1e6)")
    options = parser.parse_args()
    rows = int(options.rows)
    train, valid, test = split_sizes(rows)
    sizes = [f"dataset.train_rows={train}", f"dataset.valid_rows={valid}", f"dataset.test_rows={test}"]
    (config,) = compose_jobs([f"dataset={options.preset}", *sizes]) or []
    stage, peaks = "starting", dict[str, float]()

    def watch() -> None:
        while True:
            peaks[stage] = max(peaks.get(stage, 0.0), anonymous_mb())
            time.sleep(0.05)

    def progress(name: str, share: float) -> None:
        nonlocal stage
        stage = name

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        prepare(build(config.dataset, "dataset"), Path(folder), 0, progress=progress)
        shown = ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items())
        print(f"{options.preset}, {rows:,} rows: {time.perf_counter() - started:.0f} s; peak MB: {shown}")


if __name__ == "__main__":
    main()
