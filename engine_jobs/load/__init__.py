"""Load and tuning: how fast a served model answers, how that changes with concurrency, and which settings of its server are best.

`python -m engine_jobs.load --help`. What is asked is a probe of a smoke test (`engine_jobs.smoke_test.spec`), so whatever has a smoke
test can be measured, and nothing of a recipe is known here. Importing this costs the standard library only.
"""
