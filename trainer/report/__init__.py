"""One self-contained HTML page about runs: `write_report`."""

from trainer.report.page import write_report

__all__ = ["write_report"]
