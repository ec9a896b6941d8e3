"""Ensembles of chat models: several replies, one answer, at known cost."""

from modelwright.chat._best_of_n import BEST_OF_N as BEST_OF_N, BestOfNParams as BestOfNParams, best_of_n as best_of_n
from modelwright.chat._cache import Cache as Cache
from modelwright.chat._challenge import (
    ACES_CATEGORIES as ACES_CATEGORIES,
    ACES_WEIGHTS as ACES_WEIGHTS,
    Challenge as Challenge,
    Pair as Pair,
    aces_category as aces_category,
    challenge as challenge,
    combined as combined,
    judge_pairs as judge_pairs,
    read_pairs as read_pairs,
    read_spans as read_spans,
    sensitivity as sensitivity,
    span_f1 as span_f1,
    span_preference as span_preference,
    tau as tau,
    weighted_score as weighted_score,
)
from modelwright.chat._combine import (
    COMBINERS as COMBINERS,
    Combiner as Combiner,
    Decision as Decision,
    Ties as Ties,
    chosen as chosen,
    least_more as least_more,
    plurality as plurality,
    settled as settled,
    verified as verified,
    weighted as weighted,
)
from modelwright.chat._debate import DEBATE as DEBATE, DebateParams as DebateParams, debate as debate
from modelwright.chat._dylan import (
    DYLAN as DYLAN,
    DylanParams as DylanParams,
    Round as Round,
    agent_importance as agent_importance,
    best_team as best_team,
    dylan as dylan,
    edge_weights as edge_weights,
    importances as importances,
)
from modelwright.chat._equality import (
    EQUALITIES as EQUALITIES,
    Same as Same,
    exact as exact,
    groups as groups,
    near as near,
    normalised as normalised,
    symbolic as symbolic,
)
from modelwright.chat._ledger import BudgetError as BudgetError, Ledger as Ledger, Spent as Spent, cost as cost
from modelwright.chat._materials import (
    NEEDS as NEEDS,
    Demonstration as Demonstration,
    Materials as Materials,
    ThoughtTemplate as ThoughtTemplate,
    demonstrations as demonstrations,
    thought_templates as thought_templates,
)
from modelwright.chat._messages import (
    Agent as Agent,
    Backend as Backend,
    BrokenOffError as BrokenOffError,
    Message as Message,
    Piece as Piece,
    Reply as Reply,
    Request as Request,
    StreamingBackend as StreamingBackend,
    stream_of as stream_of,
    user as user,
    with_system as with_system,
)
from modelwright.chat._openai import OpenAIBackend as OpenAIBackend
from modelwright.chat._panel import (
    ALIASES as ALIASES,
    PROGRAMS as PROGRAMS,
    Panel as Panel,
    is_panel as is_panel,
    panel as panel,
)
from modelwright.chat._parsers import (
    Parser as Parser,
    boxed as boxed,
    choice as choice,
    code as code,
    json_by as json_by,
    number as number,
    pattern as pattern,
    text as text,
)
from modelwright.chat._predictor import (
    Conversations as Conversations,
    PanelPredictor as PanelPredictor,
    panel_predictor as panel_predictor,
)
from modelwright.chat._programs import (
    MOA as MOA,
    SELF_CONSISTENCY as SELF_CONSISTENCY,
    SELF_MOA_SEQ as SELF_MOA_SEQ,
    MixtureParams as MixtureParams,
    Program as Program,
    ProgramParams as ProgramParams,
    SelfConsistencyParams as SelfConsistencyParams,
    SequentialParams as SequentialParams,
    Technique as Technique,
    moa as moa,
    self_consistency as self_consistency,
    self_moa_seq as self_moa_seq,
)
from modelwright.chat._prompt_weights import (
    Debias as Debias,
    Weighed as Weighed,
    Weighting as Weighting,
    choice_logits as choice_logits,
    class_vectors as class_vectors,
    embedding_logits as embedding_logits,
    outliers as outliers,
    prompt_scores as prompt_scores,
    weigh as weigh,
    weighted_logits as weighted_logits,
    weights_of as weights_of,
)
from modelwright.chat._retrieval import Passage as Passage, Retriever as Retriever
from modelwright.chat._routing import (
    CASCADE as CASCADE,
    ROUTE as ROUTE,
    CascadeParams as CascadeParams,
    RouteParams as RouteParams,
    Router as Router,
    Thresholds as Thresholds,
    cascade as cascade,
    fit_cascade as fit_cascade,
    fit_router as fit_router,
    route as route,
)
from modelwright.chat._sandbox import Ran as Ran, Sandbox as Sandbox
from modelwright.chat._scorers import (
    AgentScorer as AgentScorer,
    FunctionScorer as FunctionScorer,
    ModelScorer as ModelScorer,
    Scorer as Scorer,
)
from modelwright.chat._scripted import ScriptedBackend as ScriptedBackend
from modelwright.chat._session import Session as Session, together as together
from modelwright.chat._talk import Outcome as Outcome, Step as Step, Talk as Talk
from modelwright.chat._tools import (
    CALCULATOR as CALCULATOR,
    Tool as Tool,
    arithmetic as arithmetic,
    tool as tool,
    toolbox as toolbox,
)
from modelwright.chat._transcript import Transcript as Transcript, read_transcript as read_transcript
from modelwright.chat._transformers import TransformersBackend as TransformersBackend
from modelwright.chat._variants import (
    batch_calibrated as batch_calibrated,
    combine_variants as combine_variants,
    label_probabilities as label_probabilities,
)
from modelwright.chat.prompts import TECHNIQUES as TECHNIQUES
from modelwright.chat.prompts._diverse import DIV_SE as DIV_SE, IDIV_SE as IDIV_SE
from modelwright.chat.prompts._self_ensembled import SELF_ENSEMBLED_ICL as SELF_ENSEMBLED_ICL
