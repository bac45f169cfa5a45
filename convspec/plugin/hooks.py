"""The hooks that pytest calls: options, header, exit codes and the summary at the end.

Imported by every pytest run in an environment that has convspec, so nothing heavy is imported at the top.
"""

import warnings
from typing import Any

import pytest

from convspec import BadInput, MissingData
from convspec.plugin import checks
from convspec.plugin.fixtures import accuracy_gate, convspec_session
from convspec.plugin.options import add_options as pytest_addoption
from convspec.plugin.options import prepare_ladder
from convspec.plugin.session import SESSION, Session
from convspec.plugin.verdicts import CHANNEL, Channel

__all__ = ["accuracy_gate", "convspec_session", "pytest_addoption"]  # pytest looks in a plugin's module
OF_ARRAYS = "__array__ implementation"  # NumPy 2 warns so when Keras makes arrays of variables and of PyTorch's tensors


@pytest.hookimpl(tryfirst=True)  # before anything of a wrong root folder is read
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Refuse an option that moves the root folder."""
    checks.refuse_moved_root(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Resolve the options, and prepare what the ladder needs where it is used."""
    session = config.stash[SESSION] = Session(config)
    checks.find_package(config)
    channel = config.stash[CHANNEL] = Channel(session.settings.baselines)
    config.pluginmanager.register(channel, "convspec-verdicts")
    if not session.settings.uses_ladder:
        return
    try:
        prepare_ladder(session.settings)
    except (BadInput, MissingData) as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show what the options resolved to, where the ladder is used."""
    session = config.stash[SESSION]
    if not session.settings.uses_ladder:
        return []
    import keras

    from convspec import backend

    devices, last = backend.accelerators(), session.seeds[-1]
    return [
        f"convspec: scale {session.scale}, dataset {session.settings.dataset or 'each rung its own'},"
        f" {f'seeds 0-{last}' if last else 'seed 0'}",
        f"convspec: data folder {session.data_root}, report folder {session.folder}",
        f"convspec: keras {keras.__version__} on {keras.backend.backend()}, device {', '.join(devices) or 'CPU'},"
        f" threads {backend.threads()}, precision {backend.precision()}, engine {session.settings.engine}",
        *session.outline,
    ]


def pytest_sessionstart(session: pytest.Session) -> None:
    """End the session under --convspec-require-gpu on a machine without a GPU."""
    if session.config.stash[SESSION].settings.require_gpu:
        from convspec import backend

        if not backend.accelerators():
            why = "--convspec-require-gpu: the Keras backend sees no GPU on this machine"
            pytest.exit(why, pytest.ExitCode.TESTS_FAILED)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which rungs will be asked for."""
    chosen = (item.callspec.params.get("rung") for item in session.items if hasattr(item, "callspec"))
    session.config.stash[SESSION].selected = {rung for rung in chosen if isinstance(rung, str)}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the ladder train under -W error, whose filters come after those of any ini file."""
    trains = item.path.parent == checks.BENCHMARKS or "convspec_session" in getattr(item, "fixturenames", ())
    if trains and item.config.pluginmanager.hasplugin("warnings"):  # without it --strict-markers knows no such marker
        item.add_marker(pytest.mark.filterwarnings(f"ignore:{OF_ARRAYS}:DeprecationWarning"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Say what was found in the ladder's pictures, and end a session that something is in the way of.

    A worker of pytest-xdist fails tests instead.
    """
    config = session.config
    if config.option.collectonly or config.getoption("setuponly", False) or hasattr(config, "workerinput"):
        return
    why = checks.obstacle(config.stash[SESSION], getattr(session, "items", ()))
    terminal = config.pluginmanager.getplugin("terminalreporter")  # None under -p no:terminal
    for line in config.stash[SESSION].findings if terminal else ():
        terminal.write_line(line)
    if why:
        raise pytest.UsageError(why)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test in a worker of pytest-xdist where something is in its way."""
    if hasattr(item.config, "workerinput") and (why := checks.obstacle(item.config.stash[SESSION], [item])):
        pytest.fail(why, pytrace=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Refuse the ladder under pytest-xdist."""
    checks.refuse_ladder_under_xdist(node.config, ids)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End processes that still train, in a session that was broken off."""
    if SESSION in config.stash:
        config.stash[SESSION].close()


@pytest.hookimpl(trylast=True)  # the recommendation ends what plugins print
def pytest_terminal_summary(
    terminalreporter: "pytest.TerminalReporter", exitstatus: int, config: pytest.Config
) -> None:
    """Show the gates' verdicts and the ladder, and write the report, where a test used them."""
    session, channel = config.stash[SESSION], config.stash[CHANNEL]
    if channel.verdicts or session.begun:
        from convspec.plugin import summary

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", OF_ARRAYS, DeprecationWarning)
            summary.show_verdicts(terminalreporter, channel)
            summary.show_ladder(terminalreporter, session, exitstatus == pytest.ExitCode.INTERRUPTED)
