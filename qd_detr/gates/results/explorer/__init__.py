"""explorer.html: the whole run in one page that opens anywhere and asks for nothing."""

from qd_detr.gates.results.explorer.page import EXPLORER_FILE, RunTexts, page_of, texts_of_page, write_explorer

__all__ = ["EXPLORER_FILE", "RunTexts", "page_of", "texts_of_page", "write_explorer"]
