"""All measurements of a GPU by one command, for a machine that is lent for minutes: `python -m bench.campaign`.

    python -m bench.campaign --first  --seconds 500 --results DIR [--prebuilt DIR]
    python -m bench.campaign --second --seconds 300 --results DIR

The first run asks whether each kernel is right, then how fast it is, then the deployed models, then the whole contract
and a memory checker. The second one tunes Triton, times torch.compile and a training step, and profiles the slowest
kernels. What a kernel breaks or hangs costs that kernel alone: it runs in a process of its own (`segnext_kernels.
isolation`). No number without a passed comparison in the same process. Every result is on disk at once, in one file of
results and one of logs; the same command again goes on where the last one stopped.

Needs no network and no installation: PyTorch, Triton and numpy as the machine has them, and this checkout; nvcc, ninja
and pybind11 only where no library was built beforehand. `--dry-run` goes through everything on the CPU.

    plan.py      the phases, their seconds and their jobs
    jobs.py      runs a phase's jobs, one after the other or several at a time
    record.py    the result file and the log
    worker.py    what a job's own process does: `checks`, `times`, `models`
"""
