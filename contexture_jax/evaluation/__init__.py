"""Judges of contexts, spectra, encoders and pairs of representations."""

from contexture_jax._core.chance import Compared
from contexture_jax._core.intervals import Interval
from contexture_jax.evaluation._agreement import ClusterAgreement, cluster_agreement
from contexture_jax.evaluation._alignment import (
    Alignment,
    Measured,
    alignment,
    cluster_cosines,
    clusters,
)
from contexture_jax.evaluation._association import (
    distance_correlation,
    pearson_correlation,
)
from contexture_jax.evaluation._bootstrap import (
    SpectrumSampling,
    bootstrap_interval,
    bootstrap_spectrum,
)
from contexture_jax.evaluation._columns import ColumnErrors, column_errors
from contexture_jax.evaluation._compare import (
    MEASURES,
    Comparisons,
    compare,
    compare_all,
)
from contexture_jax.evaluation._complexity import (
    KappaSample,
    estimate_kappa_squared,
    leverage_bound,
    monte_carlo_kappa_squared,
    probe_leverage,
)
from contexture_jax.evaluation._concatenate import Concatenated, concatenate
from contexture_jax.evaluation._criteria import (
    SpanStability,
    SpectralGaps,
    UsefulnessGrid,
    cluster_dimension,
    energy_dimension,
    span_stability,
    spectral_gaps,
    tail_shares,
    usefulness_grid,
    worst_case_dimension,
)
from contexture_jax.evaluation._decay import decay_rate
from contexture_jax.evaluation._dependence import (
    ContextDependence,
    context_dependence,
    context_stability,
)
from contexture_jax.evaluation._encoders import (
    ratio_trace,
    ritz_values,
    trace_gap,
    trace_gap_bound,
)
from contexture_jax.evaluation._geometry import (
    Geometry,
    geometry,
    intrinsic_dimension,
)
from contexture_jax.evaluation._held_out import HeldOut, held_out_spectrum
from contexture_jax.evaluation._in_context import ContextFit, context_fit
from contexture_jax.evaluation._judgement import (
    CountsJudgement,
    SpectrumJudgement,
    TargetJudgement,
    judge_counts,
    judge_spectrum,
    judge_target,
    num_singular_values,
)
from contexture_jax.evaluation._kernel import (
    estimate_kernel_deviation,
    expected_kernel_deviation,
    kappa_squared,
    kernel_diagonal,
    lipschitz,
)
from contexture_jax.evaluation._kernel_alignment import kernel_alignment
from contexture_jax.evaluation._monte_carlo import (
    MonteCarloError,
    jackknife,
    monte_carlo_error,
)
from contexture_jax.evaluation._pairs import PairSample, counted_sample, pair_sample
from contexture_jax.evaluation._permutation import PermutationNull, permutation_null
from contexture_jax.evaluation._perturbation import (
    PerturbedSpans,
    kernel_distance,
    perturbation_bound,
)
from contexture_jax.evaluation._rayleigh_ritz import (
    RayleighRitz,
    rayleigh_ritz,
)
from contexture_jax.evaluation._risks import ShiftedRisks, shifted_risks
from contexture_jax.evaluation._similarity import (
    cca,
    cka,
    mutual_knn,
    principal_angles,
    projector_distance,
)
from contexture_jax.evaluation._span_shift import (
    ContextureShift,
    SpanShiftBound,
    contexture_shift,
    span_shift_bound,
)
from contexture_jax.evaluation._spectra import (
    Usefulness,
    chi_squared,
    chi_squared_bias,
    effective_rank,
    maximal_correlation,
    usefulness,
)
from contexture_jax.evaluation._sphere import SphereGeometry, sphere_geometry
from contexture_jax.evaluation._subsets import subset_usefulness
from contexture_jax.evaluation._targets import (
    TargetEnergy,
    class_energy,
    compatibility,
    target_energy,
)
from contexture_jax.evaluation._tradeoff import (
    ProbeTradeoff,
    leave_one_out_errors,
    probe_tradeoff,
)
from contexture_jax.evaluation._units import (
    Units,
    neighbor_purity,
    principal_directions,
    units,
)
from contexture_jax.evaluation._usefulness_bounds import (
    UsefulnessBounds,
    usefulness_bounds,
)
from contexture_jax.evaluation._verdict import Verdict, verdict
from contexture_jax.evaluation._worst_case import (
    WorstCaseError,
    worst_case_curve,
    worst_case_error,
    worst_case_error_of,
    worst_case_error_of_coefficients,
)

__all__ = [
    "MEASURES",
    "Alignment",
    "ClusterAgreement",
    "ColumnErrors",
    "Compared",
    "Comparisons",
    "Concatenated",
    "ContextDependence",
    "ContextFit",
    "ContextureShift",
    "CountsJudgement",
    "Geometry",
    "HeldOut",
    "Interval",
    "KappaSample",
    "Measured",
    "MonteCarloError",
    "PairSample",
    "PermutationNull",
    "PerturbedSpans",
    "ProbeTradeoff",
    "RayleighRitz",
    "ShiftedRisks",
    "SpanShiftBound",
    "SpanStability",
    "SpectralGaps",
    "SpectrumJudgement",
    "SpectrumSampling",
    "SphereGeometry",
    "TargetEnergy",
    "TargetJudgement",
    "Units",
    "Usefulness",
    "UsefulnessBounds",
    "UsefulnessGrid",
    "Verdict",
    "WorstCaseError",
    "alignment",
    "bootstrap_interval",
    "bootstrap_spectrum",
    "cca",
    "chi_squared",
    "chi_squared_bias",
    "cka",
    "class_energy",
    "cluster_agreement",
    "cluster_cosines",
    "cluster_dimension",
    "clusters",
    "column_errors",
    "compare",
    "compare_all",
    "compatibility",
    "concatenate",
    "context_dependence",
    "context_fit",
    "context_stability",
    "contexture_shift",
    "counted_sample",
    "decay_rate",
    "distance_correlation",
    "effective_rank",
    "energy_dimension",
    "estimate_kappa_squared",
    "estimate_kernel_deviation",
    "expected_kernel_deviation",
    "geometry",
    "held_out_spectrum",
    "intrinsic_dimension",
    "jackknife",
    "judge_counts",
    "judge_spectrum",
    "judge_target",
    "kappa_squared",
    "kernel_alignment",
    "kernel_diagonal",
    "kernel_distance",
    "leave_one_out_errors",
    "leverage_bound",
    "lipschitz",
    "maximal_correlation",
    "monte_carlo_error",
    "monte_carlo_kappa_squared",
    "mutual_knn",
    "neighbor_purity",
    "num_singular_values",
    "pair_sample",
    "pearson_correlation",
    "permutation_null",
    "perturbation_bound",
    "principal_angles",
    "principal_directions",
    "probe_leverage",
    "probe_tradeoff",
    "projector_distance",
    "ratio_trace",
    "rayleigh_ritz",
    "ritz_values",
    "shifted_risks",
    "span_shift_bound",
    "span_stability",
    "spectral_gaps",
    "sphere_geometry",
    "subset_usefulness",
    "tail_shares",
    "target_energy",
    "trace_gap",
    "trace_gap_bound",
    "units",
    "usefulness",
    "usefulness_bounds",
    "usefulness_grid",
    "verdict",
    "worst_case_curve",
    "worst_case_dimension",
    "worst_case_error",
    "worst_case_error_of",
    "worst_case_error_of_coefficients",
]
