"""The `perennial` command: what an operator, an approver and a script type.

`main` is the console script. `app` holds the root, its global options and the one place where
errors become exit codes; a command lives beside its neighbours (`servers`, `reload`,
`definitions`, `runs`, `decisions`, `database`, `services`), asks the public `Client`, and hands what it got to
`listings` and `run_page` (for people) or `output` (JSON, for programs). Nothing heavy is imported until a command
needs it.
"""


def main() -> None:
    """Run the command line; exit with 0 done, 1 refused or failed, 2 usage, 3 not found."""
    try:
        from orchestrator.cli.secrets import hide_arguments, without_secrets

        hide_arguments()
        with without_secrets():
            from orchestrator.cli.app import app

            app(prog_name="perennial")
    except KeyboardInterrupt:  # before a command took it
        raise SystemExit(130) from None
