"""One job per module, which defines `TITLE` and `run(report, quick)`."""
