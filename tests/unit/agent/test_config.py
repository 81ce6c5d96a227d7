"""Configuration of the agent: precedence, refusals that say what to do, hostile files, and the reference page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from mrelease_agent.config import Config, ConfigError, load
from mrelease_agent.config.defaults import default_listen
from mrelease_agent.config.keys import keys
from mrelease_agent.config.values import format_duration, parse_duration
from support.configured import LISTEN, refused

ROOT = Path(__file__).resolve().parents[3]


Write = Callable[[str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> str:
        path = tmp_path / "agent.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def test_defaults_are_those_of_the_reference() -> None:
    config = load([], LISTEN)
    assert config == Config(node_name=os.uname().nodename, listen="unix:///run/test/agent.sock")
    assert (config.reap_delay, config.default_timeout, config.max_timeout, config.drain_timeout) == (0.005, 10.0, 300.0, 30.0)
    assert (config.reaper_threads, config.max_stuck_reapers, config.max_operations, config.nice) == (4, 32, 1024, -10)
    assert (config.http_listen, config.reflection, config.allow_plaintext_loopback) == ("", False, False)


def test_flag_over_variable_over_file_over_default(write: Write) -> None:
    path = write("reap_delay: 1ms\ndefault_timeout: 2s\nmax_timeout: 3m\n")
    config = load(
        ["--reap-delay", "7ms"], {**LISTEN, "MRELEASE_CONFIG": path, "MRELEASE_REAP_DELAY": "6ms", "MRELEASE_DEFAULT_TIMEOUT": "4s"}
    )
    assert (config.reap_delay, config.default_timeout, config.max_timeout, config.reaper_threads) == (0.007, 4.0, 180.0, 4)


def test_the_flag_names_the_file_before_the_variable(write: Write) -> None:
    path = write("node_name: from-flag\n")
    assert load(["--config", path], {**LISTEN, "MRELEASE_CONFIG": "/nonexistent"}).node_name == "from-flag"


EVERY_KEY: Mapping[str, tuple[str, object]] = {
    "node_name": ("node7", "node7"),
    "listen": ("unix:///run/other/agent.sock", "unix:///run/other/agent.sock"),
    "socket_group": ("4711", "4711"),
    "unix_peers": ("on", "on"),
    "allow_plaintext_loopback": ("true", True),
    "tls_listen": ("0.0.0.0:7443", "0.0.0.0:7443"),
    "tls_cert": ("/etc/mrelease/tls.crt", "/etc/mrelease/tls.crt"),
    "tls_key": ("/etc/mrelease/tls.key", "/etc/mrelease/tls.key"),
    "tls_ca": ("/etc/mrelease/ca.crt", "/etc/mrelease/ca.crt"),
    "tls_crl": ("/etc/mrelease/ca.crl", "/etc/mrelease/ca.crl"),
    "http_listen": ("127.0.0.1:9464", "127.0.0.1:9464"),
    "allow_remote_http": ("true", True),
    "policy": ("/etc/mrelease/policy.yaml", "/etc/mrelease/policy.yaml"),
    "pod_logs": ("/data/log/pods", "/data/log/pods"),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
    "reap_delay": ("0.5ms", 0.0005),
    "default_timeout": ("1.5s", 1.5),
    "max_timeout": ("1h", 3600.0),
    "reaper_threads": ("64", 64),
    "max_stuck_reapers": ("1", 1),
    "reaper_nice": ("-20", -20),
    "reaper_cpus": ("0", "0"),
    "reaper_class": ("rr", "rr"),
    "max_operations": ("2", 2),
    "max_connections": ("5", 5),
    "max_watchers": ("3", 3),
    "result_ttl": ("1h", 3600.0),
    "max_results": ("4", 4),
    "state_dir": ("/var/lib/mrelease", "/var/lib/mrelease"),
    "audit_dir": ("none", "none"),
    "audit_max_file": ("65536", 65536),
    "audit_max_files": ("2", 2),
    "boost": ("lift", "lift"),
    "target_plugins": ("slurm, my-kind", "slurm, my-kind"),
    "target_plugin_options": ("slurm.stray_processes=uid,my-kind.a_b=c=d", "slurm.stray_processes=uid,my-kind.a_b=c=d"),
    "protected_cgroups": ("/system.slice/sshd.service, /x", "/system.slice/sshd.service, /x"),
    "protected_namespaces": ("kube-system,monitoring", "kube-system,monitoring"),
    "protected_users": ("root,1000", "root,1000"),
    "protected_names": ("slurmd,postgres", "slurmd,postgres"),
    "protected_sockets": ("/run/x.sock", "/run/x.sock"),
    "protected_oom_score_adj": ("-500", -500),
    "breaker_window": ("5m", 300.0),
    "max_kills": ("7", 7),
    "max_bytes": ("1.5GiB", 3 << 29),
    "max_kills_per_caller": ("8", 8),
    "max_bytes_per_caller": ("64GiB", 64 << 30),
    "max_kills_per_target": ("0", 0),
    "drain_timeout": ("0s", 0.0),
    "nice": ("-20", -20),
    "lock_memory": ("off", "off"),
    "oom_score_adj": ("-1000", -1000),
    "otlp_endpoint": ("https://collector.example:4317", "https://collector.example:4317"),
    "reflection": ("true", True),
}


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_every_key_has_the_same_text_in_every_source(source: str, write: Write) -> None:
    assert EVERY_KEY.keys() == keys().keys()
    texts = {name: text for name, (text, _) in EVERY_KEY.items()}
    argv, environ = list[str](), dict[str, str]()
    if source == "flag":
        for name, text in texts.items():
            flag = "--" + name.replace("_", "-")
            argv += [flag] if text == "true" else [flag, text]
    elif source == "variable":
        environ = {"MRELEASE_" + name.upper(): text for name, text in texts.items()}
    else:
        argv = ["--config", write("".join(f"{name}: {text}\n" for name, text in texts.items()))]
    config = load(argv, environ)
    assert {name: getattr(config, name) for name in keys()} == {name: value for name, (_, value) in EVERY_KEY.items()}


def test_null_leaves_the_priority_as_it_is(write: Write) -> None:
    assert load(["--nice", "null"], LISTEN).nice is None
    assert load(["--reaper-nice", "null"], {**LISTEN, "MRELEASE_REAPER_NICE": "5"}).reaper_nice is None
    assert load([], {**LISTEN, "MRELEASE_NICE": "null"}).nice is None
    assert load(["--config", write("nice: null\n")], LISTEN).nice is None


def test_a_flag_can_switch_off_what_a_variable_switched_on() -> None:
    assert not load(["--no-reflection"], {**LISTEN, "MRELEASE_REFLECTION": "true"}).reflection


def test_a_number_may_be_a_node_name(write: Write) -> None:
    assert load(["--config", write("node_name: 0017\n")], LISTEN).node_name == "0017"


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10.0), ("5m", 300.0), ("1h", 3600.0), ("0s", 0.0), ("1.5s", 1.5)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1e3s", "nan", "infs", "1d", "1s2ms", "\u0661s", "9" * 400 + "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    message = refused(MRELEASE_REAP_DELAY=text)
    assert message.startswith("MRELEASE_REAP_DELAY: reap_delay is ")
    assert "a number and a unit: write" in message


def test_unknown_names_are_refused_with_the_nearest_known_one(write: Write) -> None:
    path = write("node_name: a\n\nreap_dealy: 5ms\n")
    assert refused("--config", path) == f'unknown key "reap_dealy" in {path}:3: did you mean "reap_delay"?'
    assert refused("--reap-dealy=5ms") == 'unknown flag "--reap-dealy": did you mean "--reap-delay"?'
    assert (
        refused(MRELEASE_REAP_DEALY="5ms")
        == 'unknown variable "MRELEASE_REAP_DEALY" in the environment: did you mean "MRELEASE_REAP_DELAY"?'
    )
    assert "lists the known ones" in refused("--config", write("zzzzqqqq: 1\n"))


def test_flags_are_not_abbreviated() -> None:
    assert "unknown flag" in refused("--reap", "5ms")
    assert "unknown argument" in refused("serve")
    assert "expected one argument" in refused("--reap-delay")


def test_variables_that_are_no_keys_are_left_alone() -> None:
    environ = {
        "MRELEASE_AGENT": "unix:///x",
        "MRELEASE_SERVICE_HOST": "10.0.0.1",
        "MRELEASE_SERVICE_PORT_GRPC": "7443",
        "MRELEASE_PORT": "tcp://10.0.0.1:7443",
        "MRELEASE_PORT_7443_TCP_ADDR": "10.0.0.1",
        "OTHER": "x",
    }
    assert load([], {**LISTEN, **environ}) == load([], LISTEN)
    assert "unknown variable" in refused(MRELEASE_PORT="7443")


@pytest.mark.parametrize(
    ("key", "text", "remedy"),
    [
        ("node_name", "", "write 1 to 253 printable ASCII characters without spaces"),
        ("node_name", "a b", "write 1 to 253"),
        ("node_name", "x" * 254, "write 1 to 253"),
        ("log_format", "xml", "write text or json"),
        ("log_level", "INFO", "write debug or info or warning or error"),
        ("reflection", "yes", "write true or false"),
        ("reap_delay", "1001ms", "write a duration from 0s to 1s"),
        ("default_timeout", "0s", "write a duration from 1ms to 1h"),
        ("max_timeout", "2h", "write a duration from 1ms to 1h"),
        ("reaper_threads", "0", "write a whole number from 1 to 64"),
        ("reaper_threads", "65", "write a whole number from 1 to 64"),
        ("reaper_threads", "four", "write a whole number from 1 to 64"),
        ("reaper_threads", "1.5", "write a whole number from 1 to 64"),
        ("reaper_threads", "9" * 5000, "write a whole number from 1 to 64"),
        ("nice", "-21", "write a whole number from -20 to 19 or null"),
        ("reaper_nice", "20", "write a whole number from -20 to 19 or null"),
        ("reaper_class", "fifo", "write inherit or other or rr"),
        ("reaper_cpus", "all", "write a list of CPUs such as 0-3,8"),
        ("reaper_cpus", "3-1", "write a list of CPUs such as 0-3,8"),
        ("reaper_cpus", "0,,1", "write a list of CPUs such as 0-3,8"),
        ("reaper_cpus", "0-99999", "write a list of CPUs such as 0-3,8"),
        ("reaper_cpus", "-1", "write a list of CPUs such as 0-3,8"),
        ("reaper_cpus", "\u0661", "write a list of CPUs such as 0-3,8"),
        ("reaper_cpus", "0,9999", 'this node has no CPU "9999": write CPUs of 0'),
        ("listen", "", "neither unix:///path nor tcp://127.0.0.1:port"),
        ("listen", "http://127.0.0.1:1", "neither unix:///path nor"),
        ("listen", "tcp://0.0.0.0:7443", "not a loopback address"),
        ("listen", "tcp://localhost:7443", "write 127.0.0.1:port or [::1]:port"),
        ("http_listen", "0.0.0.0:9464", "not a loopback address"),
        ("http_listen", "9464", "write 127.0.0.1:port"),
    ],
)
def test_a_wrong_value_names_source_key_value_and_remedy(key: str, text: str, remedy: str, write: Write) -> None:
    path = write(f'{key}: "{text}"\n')
    flag = "--" + key.replace("_", "-")
    messages = {
        f"{path}:1": refused("--config", path) if key != "listen" else None,
        f"MRELEASE_{key.upper()}": refused(**{f"MRELEASE_{key.upper()}": text}),
    }
    if key != "reflection":
        messages[flag] = refused(flag, text)
    for source, message in messages.items():
        if message is not None:
            assert message.startswith(f"{source}: {key} is ")
            assert text[:70] in message
            assert remedy in message
            assert len(message) < 400


def test_the_default_timeout_is_not_longer_than_the_longest() -> None:
    message = refused("--max-timeout", "5s")
    assert message == "default_timeout is 10s (default), longer than max_timeout, 5s (--max-timeout): set default_timeout to at most 5s"


def test_control_characters_of_a_value_do_not_reach_the_terminal() -> None:
    message = refused(MRELEASE_LOG_LEVEL="\x1b[2J\r\nfine")
    assert message.isprintable()


def test_default_listen() -> None:
    both = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert default_listen(both, 0) == "unix:///run/a/agent.sock"
    assert default_listen({}, 0) == "unix:///run/mrelease/agent.sock"
    assert default_listen({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == "unix:///run/user/7/mrelease/agent.sock"
    for environ in ({}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "relative"}):
        with pytest.raises(ConfigError, match=r"XDG_RUNTIME_DIR.* set it, for example --listen unix://"):
            default_listen(environ, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "is not a mapping: write one `key: value` a line"),
        ("just text\n", "is not a mapping"),
        ("node_name: a\nnode_name: b\n", ":2: node_name is set twice (before in "),
        ("node_name: [a]\n", ":1: node_name is not a single value"),
        ("node_name: {a: b}\n", ":1: node_name is not a single value"),
        ("? [a]\n: b\n", ":1 has a key that is not a plain word"),
        ("node_name: !!python/object/apply:os.system [id]\n", "node_name is not a single value"),
        ("node_name: !!python/name:os.system x\n", "has a YAML tag or anchor"),
        ("node_name: &a x\nhttp_listen: *a\n", "has a YAML tag or anchor"),
        ("node_name: x\n---\nnode_name: y\n", ":2 begins a second document"),
        ("node_name: 'x\n", "is not YAML"),
        ("\tnode_name: x\n", "is not YAML"),
        ("node_name: *nothing\n", "node_name is not a single value"),
        ("node_name:\n", ":1: node_name has no value"),
        ("http_listen: ~\n", ":1: http_listen has no value"),
        ("node_name: " + "[" * 30000, "node_name is not a single value"),
        ("[" * 60000, "is not a mapping"),
        ("node_name: " + "x" * 70000, "is larger than 65536 bytes"),
        (b"node_name: \xff\n", "is not UTF-8 (byte 11)"),
        (b"node_name: a\x00b\n", "is not YAML"),
    ],
)
def test_hostile_files_are_refused_in_one_line(content: str | bytes, message: str, write: Write) -> None:
    path = write(content)
    found = refused("--config", path)
    assert found.startswith(path)
    assert message in found
    assert len(found) < 400


def test_aliases_cannot_multiply(write: Write) -> None:
    levels = "".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert 'unknown key "k0"' in refused("--config", write('k0: &a0 "lol"\n' + levels))


def test_an_empty_file_changes_nothing(write: Write) -> None:
    assert load(["--config", write("# nothing yet\n")], LISTEN) == load([], LISTEN)


def test_a_file_that_cannot_be_read_is_named_with_who_named_it(tmp_path: Path) -> None:
    assert "named by MRELEASE_CONFIG): No such file" in refused(MRELEASE_CONFIG=str(tmp_path / "absent"))
    assert "named by --config): Is a directory" in refused("--config", str(tmp_path))
    assert "not a regular file" in refused("--config", "/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refused("--config", str(tmp_path / "fifo"))
    assert "cannot read" in refused("--config", "a\0b")


def test_of_a_huge_file_only_the_beginning_is_read(write: Write) -> None:
    path = write("node_name: a\n")
    os.truncate(path, 1 << 40)
    assert "is larger than 65536 bytes" in refused("--config", path)


def test_the_effective_configuration_is_printed_as_a_file_that_gives_it_again(capsys: pytest.CaptureFixture[str], write: Write) -> None:
    argv = ["--nice", "null", "--reap-delay", "1.5ms", "--node-name", "null"]
    with pytest.raises(SystemExit) as ended:
        load(["--print-config", *argv], LISTEN)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "nice: null  # --nice\n" in printed
    assert "reaper_threads: 4  # default\n" in printed
    assert yaml.safe_load(printed)["listen"] == LISTEN["MRELEASE_LISTEN"]
    assert load(["--config", write(printed)], {}) == load(argv, LISTEN)


def test_help_shows_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--help"], {})
    assert ended.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for key in keys().values():
        assert key.flag in text
    assert "[5ms]" in text
    assert "SUPPRESS" not in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--version"], {})
    assert ended.value.code == 0
    assert re.fullmatch(r"mrelease-agent \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_loading_imports_neither_yaml_nor_click_nor_prometheus() -> None:
    code = (
        "import sys; from mrelease_agent.config import load; load([], {'MRELEASE_LISTEN': 'unix:///a/b'}); "
        "print(*({'yaml', 'click', 'prometheus_client'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "\n"


def test_the_reference_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/reference.py", "--check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target-plugins", "Slurm"], "target_plugins has"),
        (["--target-plugins", "../x"], "target_plugins has"),
        (["--target-plugins", "slurm", "--target-plugin-options", "slurm"], r"write kind\.option=value"),
        (["--target-plugins", "slurm", "--target-plugin-options", "slurm.x="], r"write kind\.option=value"),
        (["--target-plugins", "slurm", "--target-plugin-options", "slurm.X=1"], r"write kind\.option=value"),
        (["--target-plugins", "slurm", "--target-plugin-options", "other.x=1"], "is not in target_plugins"),
        (["--target-plugins", "slurm", "--target-plugin-options", "slurm.x=1,slurm.x=2"], "twice"),
    ],
)
def test_plugins_of_targets_are_named_as_such(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as wrong:
        load(flags, LISTEN)
    assert "--target-plugin" in str(wrong.value)
