"""Composing the jobs of a command exactly as Hydra does, in less time; and Hydra's `--help`, in less time.

Composing takes Hydra 0.1 to 0.2 s, most of it in the groups: which files, their YAML, merging them. Jobs that
choose the same options of groups (`model=dcnv2 embed=me`) differ in plain values only (`scale=2`): the groups are
composed once for all of them, and each gets a copy with its values applied by Hydra. What is not as simple as that is
composed by Hydra alone. `tests/test_compose.py` holds the two against each other.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from recsys_collapse.config import config_dir, register
from recsys_collapse.launch.explain import explain

OF_HYDRA = ("hydra.searchpath", "hydra.job.env_copy")  # other words of the command line act on what these say
UNREADABLE = (HydraException, OmegaConfBaseException, ValueError)
"""What Hydra raises when a command does not compose; a ValueError is its word for a group set to null."""


DIRNAME = ("exclude_keys", "item_sep", "kv_sep")


class Repository(ConfigRepository):
    """Hydra's, which it copies for every look at a group, with all configs that it knows: here that costs nothing.

    What Hydra may change in its copy are the files and the list of sources, and those are the copy's own.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._read: dict[str, ConfigResult | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Repository":
        return copy.copy(self)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Look in other places; what was read is forgotten."""
        super().initialize_sources(config_search_path)
        self._read = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """A file of a group, read once in a process; whoever asks gets one of his own."""
        if config_path not in self._read:
            self._read[config_path] = super().load_config(config_path)
        return copy.deepcopy(self._read[config_path])


class Composer:
    """Composes the jobs of one command.

    Args:
        args: the command line, as Hydra's parser reads it.
        config_name: of the command's own file in `conf/`, unless the command line names one.

    Raises:
        ValueError: there is no folder of the name given by `--config-dir`.
    """

    def __init__(self, args: argparse.Namespace, config_name: str) -> None:
        self.args, self.config_name = args, args.config_name or config_name
        loader = _make_hydra("run", args.config_dir).config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        self.loader = loader
        self._bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}
        """What choices of groups make, with and without Hydra's own node."""

    def parse(self, overrides: list[str]) -> list[Override]:
        """Words of a command line, read.

        Raises:
            HydraException: a word cannot be read.
        """
        return OverridesParser.create(config_loader=self.loader).parse_overrides(overrides)

    def whole(self, overrides: list[str]) -> DictConfig:
        """The config with Hydra's own node, composed by Hydra.

        Raises:
            ValueError: a word of the command line cannot be applied.
        """
        try:
            return self.loader.load_configuration(self.config_name, overrides, run_mode=RunMode.RUN)
        except UNREADABLE as error:
            raise ValueError(explain(self.args.overrides, self.loader, self.config_name, error)) from error

    def first(self, words: list[str]) -> DictConfig:
        """The config of a sweep's first job, with Hydra's own node.

        Raises:
            ValueError: a word of the command line cannot be applied.
        """
        parsed = self.parse(words)
        config = self._quickly(parsed, own=False)
        if config is None:
            return self.whole(words)
        named = [override for override in parsed if not override.is_hydra_override()]
        exclude, item_sep, kv_sep = (config.hydra.job.config.override_dirname[key] for key in DIRNAME)
        config.hydra.job.override_dirname = get_overrides_dirname(named, exclude, item_sep, kv_sep)
        config.hydra.overrides.task = [override.input_line for override in named]
        config.hydra.overrides.hydra = [override.input_line for override in parsed if override.is_hydra_override()]
        return config

    def job(self, words: list[str]) -> DictConfig:
        """The config of one job, without Hydra's own node, not resolved.

        Raises:
            ValueError: a word of the command line cannot be applied.
        """
        parsed = self.parse(words)
        config = self._quickly(parsed, own=not any(override.is_hydra_override() for override in parsed))
        return without_hydra(self.whole(words) if config is None else config)

    def _quickly(self, parsed: list[Override], own: bool) -> DictConfig | None:
        """The choices of groups, composed before, with the other words applied; None: Hydra has to do it.

        `own`: Hydra's own node may be missing.
        """
        if any(override.is_sweep_override() or override.key_or_group in OF_HYDRA for override in parsed):
            return None
        values = [override for override in parsed if not self._chooses(override)]
        choices = tuple(str(override.input_line) for override in parsed if self._chooses(override))
        if choices not in self._bases:
            base = self.whole(list(choices))
            self._bases[choices] = base, without_key(base, "hydra")
        if self._bases[choices][0].hydra.searchpath:  # other words may choose there
            return None
        config = copy.deepcopy(self._bases[choices][own])
        try:
            self.loader._apply_overrides_to_config(values, config)
        except UNREADABLE:
            return None  # Hydra says it in its own words
        return config

    def _chooses(self, override: Override) -> bool:
        """Whether a word chooses an option of a group; all others change the config that the choices make."""
        return self.loader.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)


def show_help(name: str, argv: list[str], config_name: str = "config") -> bool:
    """Print Hydra's `--help` of the command `name`, if the command line asks for that; whether it does.

    Raises:
        ValueError: a word of the command line cannot be applied.
    """
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if not args.help or args.config_path is not None:
        return False
    register()
    hydra = _make_hydra(name, args.config_dir)
    config_name = args.config_name or config_name
    try:
        hydra.app_help(config_name, parser, args)
    except UNREADABLE as error:
        raise ValueError(explain(args.overrides, hydra.config_loader, config_name, error)) from error
    finally:
        GlobalHydra.instance().clear()
    return True


def _make_hydra(name: str, folder: str | None) -> Hydra:
    """Hydra with our `conf/`, after the user's own folder."""
    search_path = create_automatic_config_search_path(None, None, str(config_dir()))
    if folder is not None:
        place = Path(folder).resolve()
        if not place.is_dir():
            raise ValueError(f"--config-dir {folder}: no such folder (looked in {Path.cwd()})")
        search_path.prepend("command-line", f"file://{place}", SearchPathQuery(provider="schema"))
    hydra = Hydra.create_main_hydra2(name, search_path)
    assert isinstance(hydra.config_loader, ConfigLoaderImpl)
    hydra.config_loader.repository = Repository(search_path)
    return hydra


def without_key(config: DictConfig, key: str) -> DictConfig:
    """A copy that lacks a key, and is else the same: with its flags."""
    rest = copy.deepcopy(config)
    with open_dict(rest):
        del rest[key]
    return rest


def without_hydra(config: DictConfig) -> DictConfig:
    """The job's own part of a composed config."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
