"""What `gpugrad bench` runs: suites of cases, contenders in processes of their own, a report.

`suites` says what is computed, `contenders` by whom, `worker` is the process that computes and
times it, `runner` alternates the workers, `report` and `plots` show what came out.
"""
