"""Figures: `plot_*` takes plain data and returns a matplotlib Figure, `style.save_figure` writes and closes it.

sample (one sample; `sample_pool` writes many), distributions, patterns, clustering, comparison, trends (evolution,
alignment, dose, effects); style and text hold what all share. Nothing here imports torch.
"""
