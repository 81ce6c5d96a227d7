"""``kubectl_complete-mrelease``: kubectl asks it when Tab is pressed behind ``kubectl mrelease``, see `kubectl plugin --help`.

It prints one word a line, with its help behind a tab, and last the directive of cobra's completion.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, NoReturn

import click
from click.shell_completion import CompletionItem, ShellComplete

from mrelease.cli.kube.settings import KubeSettings
from mrelease.errors import MreleaseError
from mrelease.resolvers.kubernetes import Kubernetes

#: ShellCompDirectiveNoFileComp and ShellCompDirectiveDefault of cobra: whether files may be meant where there is no word.
_NO_FILES: Final = 4
_FILES: Final = 0
# Nobody waits longer for a word.
_PATIENCE: Final = timedelta(seconds=3)


def pod_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Pods of the namespace that the words before name."""
    return _asked(ctx, incomplete, lambda cluster, settings: [pod.name for pod in cluster.pods(settings.where(cluster), settings.end())])


def node_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Nodes of the cluster."""
    return _asked(ctx, incomplete, lambda cluster, settings: list(cluster.nodes(None, settings.end())))


def _asked(ctx: click.Context, incomplete: str, ask: Callable[[Kubernetes, KubeSettings], list[str]]) -> list[CompletionItem]:
    settings = ctx.ensure_object(KubeSettings)
    settings.request_timeout = min(settings.request_timeout, _PATIENCE)
    try:
        with settings.cluster() as cluster:
            names = ask(cluster, settings)
    except MreleaseError:
        # Beside a prompt there is no room for why: the command itself will say it.
        return []
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def words(typed: Sequence[str]) -> list[str]:
    """The lines for kubectl. ``typed``: the words behind ``kubectl mrelease``, the last one not finished, or empty."""
    from mrelease.cli.kube.main import kube

    *before, incomplete = typed or [""]
    shell = ShellComplete(kube, {"obj": KubeSettings()}, "kubectl mrelease", "_")
    found = shell.get_completions(before, incomplete)
    lines = [f"{item.value}\t{item.help}" if item.help else str(item.value) for item in found if item.type == "plain"]
    return [*lines, f":{_FILES if any(item.type != 'plain' for item in found) else _NO_FILES}"]


def main() -> NoReturn:
    """Print the words that may come next."""
    print("\n".join(words(sys.argv[1:])))
    sys.exit(0)


if __name__ == "__main__":
    main()
