"""Checks for the exercises, one file per notebook: pass your function, read a verdict.

A notebook imports its own: ``from kd_course.checks import notebook_03 as checks``, then ``checks.kd_loss(my_kd_loss)``.
A check never raises. It knows the classic mistakes of its exercise and calls them by name: an ``Exercise`` holds them
as wrong functions, each under its sentence, beside a right one (``_exercise`` shows how to write another).
"""
