"""The question before a kill: who it is, what would come back, and whether the agent would do it at all."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from mrelease import AsyncClient, MreleaseError, NodeRef, ProcessInfo, _text
from mrelease.cli import users
from mrelease.cli.top import rows


class Confirm(ModalScreen[bool]):
    """Asks whether to kill one process; True: yes. A dry run at the agent comes first, and without its word there is no yes."""

    BINDINGS: ClassVar[list[BindingType]] = [("y", "kill", "Kill"), ("n,escape", "cancel", "Cancel")]
    DEFAULT_CSS = """
    Confirm { align: center middle; background: $background 60%; }
    Confirm > Vertical { width: auto; min-width: 44; max-width: 90%; height: auto; padding: 1 2; }
    Confirm > Vertical { background: $surface; border: round $error; }
    Confirm Static { width: auto; }
    Confirm Horizontal { height: auto; margin-top: 1; align-horizontal: right; }
    Confirm Button { margin-left: 2; }
    """

    def __init__(self, client: AsyncClient, info: ProcessInfo, node: NodeRef) -> None:
        super().__init__()
        self._client = client
        self._info = info
        self._node = node

    def compose(self) -> ComposeResult:
        """Question, answer of the dry run, buttons; the harmless one has the focus."""
        with Vertical():
            yield Static(_question(self._info), id="question")
            yield Static("asking the agent ...", id="check")
            with Horizontal():
                yield Button("Cancel (n)", id="cancel")
                yield Button("Kill (y)", variant="error", id="kill", disabled=True)

    def on_mount(self) -> None:
        """Ask the agent."""
        self.query_one("#cancel", Button).focus()
        self.run_worker(self._check())

    async def _check(self) -> None:
        said = self.query_one("#check", Static)
        try:
            result = await self._client.kill_and_release(self._info.target, node=self._node, validate_only=True)
        except MreleaseError as error:
            said.update(Text(_text.printable(str(error)), style="red"))
            return
        back = sum(p.memory_before.reclaimable_bytes for p in result.processes if p.memory_before)
        said.update(Text(f"{_text.size(back)} would come back", style="green"))
        self.query_one("#kill", Button).disabled = False

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button was chosen."""
        self.dismiss(event.button.id == "kill")

    def action_kill(self) -> None:
        """Yes, once the agent has said that it would."""
        if not self.query_one("#kill", Button).disabled:
            self.dismiss(True)

    def action_cancel(self) -> None:
        """No."""
        self.dismiss(False)


def _question(info: ProcessInfo) -> Text:
    text = Text.assemble(("Kill ", "bold"), (f"{info.pid} {_text.printable(info.command)}", "bold red"), ("?", "bold"))
    for name, value in (
        ("user", users.name(info.uid)),
        ("pod", f"{_text.printable(info.pod_uid)} {rows.qos(info)}".strip()),
        ("container", _text.printable(info.container_id[:12])),
        ("cgroup", "" if info.container_id else _text.printable(info.cgroup)),
        ("holds", _text.size(info.reclaimable_bytes)),
        ("stays", ", ".join(rows.stays(info))),
        ("note", rows.notes(info)),
    ):
        if value:
            text.append(f"\n{name:<10}", style="dim").append(value)
    return text
