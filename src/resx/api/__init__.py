"""What `import resx` gives, a module for each step of the line.

The functions are thin: they check and arrange what they are given, and call what the commands call. They print nothing
and take the names of the commands' options. Each imports what it needs when it is called.
"""
