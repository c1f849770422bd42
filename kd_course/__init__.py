"""kd_course: the tested companion package of a hands-on course on knowledge distillation.

The package is small enough to read in an afternoon. A file imports only from the floors below it::

    6  widgets  checks  guide  fidelity  __main__   controls, exercises, how to choose, what runs say, pre-flight
    5  studies                        hours of training, remembered run by run: the numbers behind data/results
    4  teachers  comparison  plots    whom to imitate; recipes side by side; how to show what came out
    3  training  evaluation  ensembles   one loop for every method; metrics and intervals; many teachers
    2  inference                      using a network without training it
    1  losses  models  data           pure functions, networks, images in memory
    0  runtime                        device, random numbers, threads, files that ship with the course
"""

__version__ = "0.1.0"
