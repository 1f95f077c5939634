"""
The tutorial: templates with TODOs, and the steps that turn them into the showcase.

`templates/` has the files of `sandbox/` that a reader works on, in their initial state. A line
`# TODO 3.2: ...` stands where the finished file of the same name has code. The finished file
is the solution.
"""
