"""The page of other libraries' names: each row names something of ours that exists, or says where else to go."""

import importlib
import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migrating.md"
OURS = re.compile(r"`(flowrax(?:\.\w+)+)")

# What a user of each system finds in its own pages.
THEIRS = {
    "bionemo-moco": """
        GaussianPrior LinearHarmonicPrior DiscreteUniformPrior DiscreteCustomPrior DiscreteMaskedPrior
        remove_center_of_mass clean_mask_center UniformTimeDistribution SymmetricUniformTimeDistribution
        BetaTimeDistribution LogitNormalTimeDistribution MixTimeDistribution float_time_to_index CosineSNRTransform
        LinearSNRTransform LinearLogInterpolatedSNRTransform CosineExpNoiseTransform LogLinearExpNoiseTransform
        DiscreteCosineNoiseSchedule DiscreteLinearNoiseSchedule calculate_general_sde_terms calculate_beta
        TimeDirection LinearInferenceSchedule PowerInferenceSchedule LogInferenceSchedule
        DiscreteLinearInferenceSchedule EntropicInferenceSchedule discretize ContinuousFlowMatcher
        process_vector_field_prediction process_data_prediction step_score_stochastic vf_to_score get_gt OTSampler
        EquivariantOTSampler KabschAugmentation AugmentationType VDM step_ddim step_ode step_hybrid_sde DDPM step_noise
        D3PM MDLM DiscreteFlowMatcher PredictionType parallel_context step_confidence step_confidence_margin
        step_auto_regressive get_num_steps_confidence step_self_path_planning calculate_score step_purity step_argmax
        step_simple_sample
    """,
    "flowfusion": """
        MLP ScoreModel no_sigma hutchinson hutchpp xtrace sample_sde sample_ode_from_base solve_odes_forward log_prob
        VESDE VPSDE SUBVPSDE denoising_score_matching log_prob_score_matching PopulationModelDiffusion
        PopulationModelDiffusionConditional ODEFlow ConditionalODEFlow SymplecticFlowModel
    """,
    "torchebm": """
        LinearInterpolant CosineInterpolant VariancePreservingInterpolant compute_drift compute_diffusion
        velocity_to_score velocity_to_noise score_to_velocity FlowSampler last_step negate_velocity FlowMatchingLoss
        EquilibriumMatchingLoss EnergyMatchingLoss ScoreMatching DenoisingScoreMatching SlicedScoreMatching
        ContrastiveDivergence compute_flow_weight compute_eqm_ct dispersive_loss Independent ExactOT Greedy Sinkhorn
        UnbalancedSinkhorn Reflow ClassifierFreeGuidance Langevin
    """,
    "DiffuseNNX": """
        SiTInterface EDMInterface MeanFlowInterface t_shift TrainingTimeDistType DiT_REPA build_mlp EulerSampler
        HeunSampler EulerJumpSampler EulerMaruyamaSampler EDMSampler SamplingTimeDistType mean_flat
    """,
}


def sections():
    """The text of the page by the system it is about."""
    text = PAGE.read_text()
    return {title: body for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S)}


def rows():
    """Each row of every table: the system, its cells."""
    found = []
    for system, body in sections().items():
        for line in body.splitlines():
            cells = [cell.strip() for cell in re.split(r" \|(?= )", line.strip()[1:-1])]
            if line.startswith("|") and not line.startswith("|--") and not line.startswith("| theirs"):
                found.append((system, cells))
    return found


def resolves(name):
    """Whether a dotted name is a module, or something in one."""
    value = importlib.import_module("flowrax")
    for part in name.split(".")[1:]:
        if not hasattr(value, part):
            try:
                importlib.import_module(f"{value.__name__}.{part}")
            except (AttributeError, ImportError):
                # A dataclass keeps no attribute of a field without a default on the class.
                return part in getattr(value, "__dataclass_fields__", {})
        value = getattr(value, part)
    return True


def test_every_row_is_served_or_says_where_to_go():
    assert len(rows()) > 100
    for system, cells in rows():
        assert len(cells) == 3, (system, cells)
        theirs, ours, remarks = cells
        assert theirs, (system, cells)
        assert OURS.search(ours) or remarks, (system, cells)


@pytest.mark.parametrize("name", sorted(set(OURS.findall(PAGE.read_text()))))
def test_names_exist(name):
    assert resolves(name)


@pytest.mark.parametrize("system", THEIRS)
def test_nothing_is_left_out(system):
    body = sections()[system]
    assert [name for name in THEIRS[system].split() if not re.search(rf"\b{name}\b", body)] == []


def test_names_that_do_not_exist_are_found():
    assert resolves("flowrax.schedule.Linear")
    assert not resolves("flowrax.schedule.Nothing")
    assert not resolves("flowrax.nothing.Linear")
