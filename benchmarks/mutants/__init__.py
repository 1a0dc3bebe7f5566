"""`make mutants`: one-line faults, each in a promise of resx, planted one at a time; the tests have to notice each."""
