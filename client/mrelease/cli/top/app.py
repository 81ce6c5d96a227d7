"""The full-screen view of ``mrelease top``."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Footer, Input, Static

from mrelease import AsyncClient, MreleaseError, NodeRef, ProcessInfo, ReleaseResult, _report, _text, errors
from mrelease.cli import output
from mrelease.cli.top import gauges, rows, source
from mrelease.cli.top.confirm import Confirm
from mrelease.cli.top.source import Query
from mrelease.cli.where import Where

#: Lines of what became of kills that stay on the screen.
_MESSAGES: Final = 4
#: Seconds between two attempts to reach an agent that was there before.
_AGAIN: Final = 1.0


class TopApp(App[MreleaseError]):
    """Shows the node, and kills the chosen process when told so twice. Returns the error that ended it, if one did."""

    TITLE = "mrelease top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k,delete", "kill", "Kill"),
        Binding("s", "sort", "Sort by next column"),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "clear", "Clear filter", show=False),
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    Screen { layout: vertical; }
    #head { height: 1; background: $primary; color: $text; padding: 0 1; }
    #gauges { height: auto; padding: 1 1 0 1; }
    #filter { display: none; border: none; height: 1; padding: 0 1; margin-top: 1; }
    #filter.open { display: block; }
    #processes { height: 1fr; margin-top: 1; }
    #messages { height: auto; max-height: 8; padding: 0 1; }
    """

    def __init__(self, where: Where, query: Query) -> None:
        super().__init__()
        self._where = where
        self._query = query
        self._client: AsyncClient | None = None
        self._node = NodeRef()
        self._infos: tuple[ProcessInfo, ...] = ()
        self._shown: list[ProcessInfo] = []
        self._drawn: object = None
        self._column, self._backwards = rows.RECLAIMABLE, False
        self._history = gauges.History()
        self._samples = 0
        self._messages: deque[Text] = deque(maxlen=_MESSAGES)
        # Kept here: a query finds what is on the screen in front, which is the question's while it is asked.
        self._head, self._said = Static(id="head"), Static(id="messages")
        self._gauges = Static("waiting for the agent ...", id="gauges")
        self._filter = Input(id="filter", placeholder="words of a name, user, pod, container, cgroup", compact=True)
        self._table = DataTable[Text](id="processes", cursor_type="row", zebra_stripes=True)

    @property
    def samples(self) -> int:
        """Samples that were shown so far."""
        return self._samples

    @property
    def shown(self) -> tuple[ProcessInfo, ...]:
        """The processes of the table, in its order."""
        return tuple(self._shown)

    @property
    def chosen(self) -> ProcessInfo | None:
        """The process under the cursor; None: there is none."""
        at = self._table.cursor_row
        return self._shown[at] if 0 <= at < len(self._shown) else None

    @property
    def messages(self) -> tuple[str, ...]:
        """What is said of kills and of the agent."""
        return tuple(message.plain for message in self._messages)

    def compose(self) -> ComposeResult:
        """Head, gauges, filter, processes, what became of kills, keys."""
        yield from (self._head, self._gauges, self._filter, self._table, self._said, Footer())

    async def on_mount(self) -> None:
        """Connect, and follow the node."""
        self._client = self._where.async_client()
        self._table.focus()
        self._draw_head()
        self.run_worker(self._follow(self._client))

    async def on_unmount(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def _follow(self, client: AsyncClient) -> None:
        seen = False
        while True:
            try:
                async for snapshot in source.snapshots(client, self._query):
                    seen = True
                    self._show(snapshot)
            except errors.AgentError as error:
                if not seen or not _passes(error):
                    self.exit(error)
                    return
                self._say(Text(_text.printable(str(error)), style="red"))
            await asyncio.sleep(_AGAIN)

    def _show(self, snapshot: source.Snapshot) -> None:
        self._samples += 1
        self._history.add(snapshot.sample)
        self._gauges.update(gauges.bars(snapshot.sample, self._history))
        if snapshot.sample.node is not None:
            self._node = snapshot.sample.node
        if snapshot.processes is not None:
            self._infos = snapshot.processes.processes
            self._draw()
        self._draw_head()

    def _draw_head(self) -> None:
        column = rows.COLUMNS[self._column].title
        parts = [_text.printable(self._node.name), f"by {column}{', reversed' if self._backwards else ''}"]
        if self._filter.value:
            parts.append(f"with {self._filter.value!r}")
        if self._query.within is not None:
            parts.append(_text.printable(str(self._query.within)))
        self._head.update(Text("mrelease top  ", style="bold").append("  ".join(part for part in parts if part)))

    def _draw(self) -> None:
        """Fill the table again where it has changed; the cursor stays on its process."""
        table, chosen, top = self._table, self.chosen, self._table.scroll_y
        self._shown = rows.arranged(self._infos, self._column, backwards=self._backwards, words=self._filter.value)
        drawn = (self._column, self._backwards, [(info.target, rows.cells(info)) for info in self._shown])
        if drawn == self._drawn:
            return
        self._drawn = drawn
        table.clear(columns=True)
        for number, column in enumerate(rows.COLUMNS):
            arrow = ("▲" if column.largest_first == self._backwards else "▼") if number == self._column else ""
            table.add_column(Text(column.title + arrow, justify="right" if column.right else "left"))
        for info in self._shown:
            table.add_row(*_row(info))
        at = next((n for n, info in enumerate(self._shown) if chosen is not None and info.target == chosen.target), None)
        if at is None:
            at = min(table.cursor_row, len(self._shown) - 1)
        table.cursor_coordinate = Coordinate(max(0, at), 0)
        table.scroll_to(y=top, animate=False)

    def _say(self, *lines: Text) -> None:
        self._messages.extend(lines)
        self._said.update(Text("\n").join(self._messages))

    def action_kill(self) -> None:
        """Ask whether to kill the chosen process, and do it."""
        info = self.chosen
        if info is not None and self._client is not None:
            self.run_worker(self._kill(self._client, info, self._node))

    async def _kill(self, client: AsyncClient, info: ProcessInfo, node: NodeRef) -> None:
        if not await self.push_screen_wait(Confirm(client, info, node)):
            return
        name = f"{info.pid} {_text.printable(info.command)}"
        self._say(Text(f"killing {name} ...", style="dim"))
        try:
            result = await client.kill_and_release(info.target, node=node, reason="mrelease top")
        except MreleaseError as error:
            self._say(Text(f"{name}: {_text.printable(str(error))}", style="red"))
        else:
            self._say(*_became(result))

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._column, self._backwards = (self._column + 1) % len(rows.COLUMNS), False
        self._draw()
        self._draw_head()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._backwards = not self._backwards
        self._draw()
        self._draw_head()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; once more: the other way round."""
        self._backwards = not self._backwards if event.column_index == self._column else False
        self._column = event.column_index
        self._draw()
        self._draw_head()

    def action_filter(self) -> None:
        """Open the filter."""
        self._filter.add_class("open")
        self._filter.focus()

    def action_clear(self) -> None:
        """Close the filter and show all."""
        self._filter.value = ""
        self._filter.remove_class("open")
        self._table.focus()

    def on_input_changed(self) -> None:
        """Show what the filter finds so far."""
        self._draw()
        self._draw_head()

    def on_input_submitted(self) -> None:
        """Keep the filter and go back to the processes."""
        if not self._filter.value:
            self._filter.remove_class("open")
        self._table.focus()


def _passes(error: errors.AgentError) -> bool:
    """Whether an agent that was there before may be there again."""
    return isinstance(error, errors.Unavailable | errors.OutcomeUnknown) and not isinstance(error, errors.InternalError)


def _row(info: ProcessInfo) -> list[Text]:
    style = "dim" if info.protection else ""
    return [
        Text(cell, style=style, justify="right" if column.right else "left")
        for column, cell in zip(rows.COLUMNS, rows.cells(info), strict=True)
    ]


def _became(result: ReleaseResult) -> list[Text]:
    """One line a process, and why memory is not back."""
    lines = [Text(str(process), style=output.style(process.outcome.name)) for process in result.processes]
    return [*lines, *map(Text, _report.notes(result.processes))]
