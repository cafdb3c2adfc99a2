"""Figures: what is drawn is what was given."""

import io

import numpy as np
import pytest

from flowrax import diagnostics, plot


def png_size(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    data = file.getvalue()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return tuple(int.from_bytes(data[i : i + 4], "big") for i in (16, 20))


def test_images_show_each_cell_in_its_place():
    grid = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) / 120
    figure = plot.images(grid, column_titles=["a", "b", "c"], row_titles=["first", "second"], title="six")
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(np.stack([np.asarray(a) for a in shown]), grid.reshape(6, 4, 5))
    assert all(axes.images[0].get_clim() == (0.0, 1.0) for axes in figure.axes)
    # Read from the top left, rows downwards.
    corners = [axes.get_position().get_points()[0] for axes in figure.axes]
    assert corners[0][0] < corners[1][0] and corners[0][1] > corners[3][1]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    assert figure.axes[3].get_ylabel() == "second"
    width, height = (round(float(inches) * figure.dpi) for inches in figure.get_size_inches())
    assert np.allclose(png_size(figure), (width, height), atol=1)


def test_images_refuse_what_is_not_a_table():
    with pytest.raises(ValueError, match=r"grid has shape \(3, 8, 8\) but \(rows, columns, height, width\)"):
        plot.images(np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="column_titles has 1 entries but 2 are expected"):
        plot.images(np.zeros((1, 2, 8, 8)), column_titles=["one"])


def test_trajectory_names_its_times():
    figure = plot.trajectory(np.zeros((1, 3, 8, 8)), np.array([0.0, 0.5, 1.0]))
    assert [axes.get_title() for axes in figure.axes] == ["t = 0.00", "t = 0.50", "t = 1.00"]


def test_likelihood_calibration_reports_the_z_scores():
    exact, error = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.5, 1.0, 1.0])
    z = np.array([1.0, -1.0, 2.0, -2.0])
    figure = plot.likelihood_calibration(exact, exact + z * error, error)
    left, middle, right = figure.axes
    assert right.get_title() == f"mean 0.00, standard deviation {np.sqrt(2.5):.2f}, n = 4"
    # The histogram is a density: its bars have unit area.
    corners = [np.asarray(patch.get_path().get_extents(patch.get_patch_transform())) for patch in right.patches]
    assert np.isclose(sum(np.prod(high - low) for low, high in corners), 1.0)
    points, bars = middle.lines[1], middle.collections[0]
    np.testing.assert_allclose(np.asarray(points.get_xydata()), np.stack([exact, z * error], axis=1))
    reach = [path.get_extents().height / 2 for path in bars.get_paths()]
    np.testing.assert_allclose(reach, error)
    assert left.get_xlabel() == "exact log-likelihood (nats)"
    png_size(figure)


def test_likelihood_calibration_refuses_errors_that_cannot_be_units():
    with pytest.raises(ValueError, match="standard_error must be positive and finite"):
        plot.likelihood_calibration(np.zeros(2), np.zeros(2), np.array([0.0, 1.0]))


def test_training_curve_marks_the_weights_that_were_kept():
    step = np.array([100, 200, 300])
    train, validation = np.array([3.0, 2.0, 1.0]), np.array([3.0, 2.5, 2.6])
    figure = plot.training_curve(step, train, validation, best_step=200)
    drawn = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
    np.testing.assert_array_equal(drawn[0], np.stack([step, train], axis=1))
    np.testing.assert_array_equal(drawn[1], np.stack([step, validation], axis=1))
    np.testing.assert_array_equal(drawn[2][:, 0], [200, 200])
    png_size(figure)


def test_ranks_draw_histograms_and_differences_with_their_band():
    counts = np.repeat(np.arange(10), 20)
    record = diagnostics.calibration_of_ranks(np.stack([counts, counts // 2], axis=1), 9, names=("a", "b"))
    figure = plot.ranks(record, num_bins=10, title="both")
    left, right = figure.axes[:2]
    heights = [patch.get_height() for patch in left.patches if patch.get_width() < 0.2]
    np.testing.assert_array_equal(heights, 20)
    np.testing.assert_allclose(right.lines[-1].get_ydata(), record.ecdf_difference[0])
    low, high = record.band
    corners = right.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([corners.y0, corners.y1], [low.min(), high.max()])
    assert [axes.get_title() for axes in figure.axes[::2]] == ["a: nothing found", "b: biased high and too wide"]
    png_size(figure)


def test_coverage_is_drawn_with_its_difference():
    rng = np.random.default_rng(0)
    truths, draws = rng.normal(size=(50, 1)), rng.normal(size=(50, 20, 1))
    record = diagnostics.tarp(truths, draws)
    figure = plot.coverage(record, title="balls")
    for axes, base in zip(figure.axes, (0.0, record.credibility), strict=True):
        np.testing.assert_allclose(axes.lines[-1].get_ydata(), record.coverage[0] - base)
    png_size(figure)
    with pytest.raises(ValueError, match="^record must be a Coverage; got an object of type Contraction"):
        plot.coverage(diagnostics.z_scores_and_contraction(truths, draws))
