"""Takes all measurements of a GPU by one command, on a machine that is lent for minutes: `python -m bench.campaign`.

    python -m bench.campaign --first  --seconds 480 --results DIR [--prebuilt DIR]
    python -m bench.campaign --second --seconds 290 --results DIR
    python -m bench.campaign --third  --seconds 470 --results DIR

The first run checks whether each kernel is right, times it, then runs the deployed models, the whole contract and a
memory checker. The second run tunes Triton, times torch.compile and a training step, and profiles the slowest kernels.
The third takes the memory checker and the contract to their ends, and runs the tests that a GPU changes.
A kernel that crashes or hangs costs only itself, because it runs in a process of its own (`segnext_kernels.isolation`).
No number is recorded without a passed comparison in the same process. Every result is on disk at once, in one file of
results and one of logs; the same command again continues where the last one stopped.

The campaign needs no network and no installation: it takes PyTorch, Triton and numpy as the machine has them, and this
checkout. It needs nvcc and ninja only if no library was built beforehand. `--dry-run` runs everything on the CPU.

    plan.py      lists the phases, their seconds and their jobs
    jobs.py      runs a phase's jobs, one after the other or several at a time
    record.py    keeps the result file and the log
    worker.py    is a job's own process: it calls `checks`, `times`, `models`
"""
