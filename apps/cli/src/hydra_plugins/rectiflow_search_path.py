"""Let every domain's config use the groups in ``configs/common``."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from rectiflow_cli.config_root import config_root


class RectiflowSearchPath(SearchPathPlugin):
    """Append the shared root, so that a domain's own file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add ``configs/common``; Hydra calls this for every application it runs."""
        search_path.append(provider="rectiflow", path=f"file://{config_root() / 'common'}")
