"""Runs a file of Python code where torchvision's operators may be missing; run by the interpreter that has timm."""

import runpy
import sys

from bench.rivals.torchvision_on_cpu import declare_operators

declare_operators()
runpy.run_path(sys.argv[1], run_name="__main__")
