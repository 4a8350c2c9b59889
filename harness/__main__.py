"""`python -m harness` is `metagrad`, for what starts modules: `torchrun -m harness train ...`."""

from harness.cli import main

main()
