"""
The tutorial: templates with TODOs, and the steps that turn them into the showcase.

`templates/` has the files of `sandbox/` that a reader works on, as they are in the
beginning. A line `# TODO 3.2: ...` stands where the finished file of the same name has
code. So the finished file is the solution, and there is no second copy of any code.
"""
