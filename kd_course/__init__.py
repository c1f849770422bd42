"""kd_course: the tested companion package of a hands-on course on knowledge distillation.

The package is small enough to read in an afternoon. A file imports only from the floors below it::

    7  checks  studies                what notebooks and maintainers add: exercises' checks; hours of training
    6  widgets  __main__              live controls, the pre-flight
    5  teachers  comparison  plots    teachers that ship; recipes side by side; figures
    4  training  evaluation  ensembles  _jobs   one loop for every method; metrics, intervals; many teachers
    3  checkpoint  inference  memo    a training's state; using a network without training it; finished runs
    2  losses  models  data  _engine   pure functions, networks, tables in memory; one process or several
    1  runtime  _definitions          device, random numbers, threads, shipped files; what a function means
    0  _validation  _terminal         what arguments must be; printing on any terminal

Read it in this order: ``losses/response`` (what distillation minimises), ``data/split`` and ``training`` (how anything
is trained), ``inference`` (how a teacher is run), ``evaluation`` (how it turned out), ``comparison`` (whether that was
luck); then whichever method you came for. ``checks`` and ``studies`` are annexes that nothing else imports.
"""

import os
import sys

__version__ = "0.1.0"

# A thread of OpenMP that waits for another spins, and on a shared core it spins in the other's way: a step on two
# threads can take ten times as long as on one. Sleeping costs little on idle cores. PyTorch reads this as it loads.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
