"""Every figure and table of the paper on one data set: what is missing is run, all drawn, RESULTS.md says what holds.

    python -m experiments.paper dataset=mini seed=0,1,2 [model=dcnv2,dnn] [scale=1,2,4,10] [--plan]

`model=` and `scale=` choose those of the tables and curves; artefacts about one model keep it, those about the enlarged
model take the largest scale. Runs that several artefacts need are made once.
"""

import logging
import sys
from collections.abc import Sequence

from experiments import fig1, fig2, fig3, fig4, fig5, fig6, fig8a, fig8b, fig8c, fig8d, table1, table2
from experiments.results import write_results
from experiments.study import PLAN_ONLY, Artefact, Words, draw, folder_of, parse, plan_of, run_missing, union
from recsys_collapse.launch.plan import Plan
from recsys_collapse.run import guarded
from recsys_collapse.runs.records import read_result

ARTEFACTS = tuple(module.ARTEFACT for module in (table1, fig1, fig2, fig3, fig5, fig6, fig8a, fig8b, fig8c, fig8d))


def words_for(artefact: Artefact, words: Words) -> Words:
    """Those of the user's words that are about this artefact."""
    left_out = {*(() if artefact.any_model else ("model",)), *(("scale",) if artefact.own_scale else ())}
    return {key: value for key, value in words.items() if key not in left_out}


def plans_of(words: Words) -> dict[str, Plan]:
    """Of every artefact, in one group.

    Raises:
        ValueError: a word is wrong.
    """
    together = {"group": "paper", **words}
    return {artefact.name: plan_of(artefact, words_for(artefact, together)) for artefact in ARTEFACTS}


def run(argv: Sequence[str]) -> int:
    """Plan, price, run, draw; 1 if something is missing in the end."""
    words, only_plan = parse([word for word in argv if word != PLAN_ONLY]), PLAN_ONLY in argv
    plans = plans_of(words)
    plan = union(list(plans.values()))
    run_missing(plan, only_plan)
    if only_plan:
        return 0
    missing = []
    for artefact in ARTEFACTS:
        own = plans[artefact.name]
        if all(read_result(job.run_dir, job.run_id) is not None for job in own.jobs):
            draw(artefact, own, words_for(artefact, words))
        else:
            missing.append(artefact.name)
    table2.draw({key: value for key, value in words.items() if key not in ("model", "scale", "seed")})
    fig4.draw(plan.output_dir)
    path = write_results([folder_of(plan), plan.output_dir / "paper" / "toy"], folder_of(plan))
    print(f"results  {path}")
    if missing:
        print(f"not drawn, for want of runs: {', '.join(missing)}; the same command tries them again", file=sys.stderr)
    return 1 if missing else 0


def main() -> int:
    """The command; its exit code."""
    argv = sys.argv[1:]
    if {"-h", "--help"} & {*argv}:
        print(__doc__.strip())
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return guarded("experiments.paper", lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
