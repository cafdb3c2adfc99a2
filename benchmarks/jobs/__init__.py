"""One job per module: `TITLE`, and `run(report, quick)`."""
