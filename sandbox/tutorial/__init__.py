"""
The tutorial: templates with TODOs, and the steps that turn them into the showcase.

Apart from `solutions/` and the modules, this folder has files of `sandbox/` that a reader works
on, in their initial state. A line `# TODO 3.2: ...` stands where the finished file of the same
name has code. If the TODO says "uncomment ...", the code follows it as a comment. The finished
file is the solution.
"""
