"""The techniques of the survey of prompt engineering, arXiv:2402.07927, as programs.

To add one: its function and record in the file of its family, its templates, and its name here.
"""

from modelwright.chat._programs import SELF_CONSISTENCY, Program
from modelwright.chat.prompts._acting import ART, CHAIN_OF_TABLE, REACT
from modelwright.chat.prompts._checked import CHAIN_OF_VERIFICATION, LOGICOT, SELF_REFINE
from modelwright.chat.prompts._coded import CHAIN_OF_CODE, PROGRAM_OF_THOUGHTS, STRUCTURED_COT
from modelwright.chat.prompts._direct import (
    CHAIN_OF_DRAFT,
    CHAIN_OF_SYMBOL,
    CHAIN_OF_THOUGHT,
    CONTRASTIVE_COT,
    EMOTION_PROMPT,
    FEW_SHOT,
    SCRATCHPAD,
    ZERO_SHOT,
)
from modelwright.chat.prompts._optimised import APE, OPRO
from modelwright.chat.prompts._restated import (
    CODE_PROMPTING,
    END_TO_END_DAG_PATH,
    LOGIC_OF_THOUGHT,
    NARRATIVE_OF_THOUGHT,
    REPHRASE_AND_RESPOND,
    STEP_BACK,
    SYSTEM_2_ATTENTION,
    THREAD_OF_THOUGHT,
)
from modelwright.chat.prompts._retrieved import CHAIN_OF_KNOWLEDGE, CHAIN_OF_NOTE, RAG
from modelwright.chat.prompts._reversed import REVERSE_CHAIN_OF_THOUGHT
from modelwright.chat.prompts._searched import GRAPH_OF_THOUGHTS, INSTANCE_ADAPTIVE, LAYER_OF_THOUGHTS, TREE_OF_THOUGHTS
from modelwright.chat.prompts._shown import ACTIVE_PROMPT, AUTO_COT, BUFFER_OF_THOUGHTS, CONTRASTIVE_DENOISING, ECHO
from modelwright.chat.prompts._work import Formula as Formula, TechniqueParams as TechniqueParams, Work as Work

#: The techniques by name, in the order of the survey.
TECHNIQUES: dict[str, Program] = {
    record.name: record
    for record in (
        ZERO_SHOT, FEW_SHOT, CHAIN_OF_THOUGHT, AUTO_COT, SELF_CONSISTENCY, LOGICOT, CHAIN_OF_SYMBOL, TREE_OF_THOUGHTS,
        GRAPH_OF_THOUGHTS, SYSTEM_2_ATTENTION, THREAD_OF_THOUGHT, CHAIN_OF_TABLE, SELF_REFINE, CODE_PROMPTING, ECHO,
        LOGIC_OF_THOUGHT, INSTANCE_ADAPTIVE, END_TO_END_DAG_PATH, LAYER_OF_THOUGHTS, NARRATIVE_OF_THOUGHT,
        BUFFER_OF_THOUGHTS, CONTRASTIVE_DENOISING, REVERSE_CHAIN_OF_THOUGHT, CHAIN_OF_DRAFT, RAG, REACT,
        CHAIN_OF_VERIFICATION, CHAIN_OF_NOTE, CHAIN_OF_KNOWLEDGE, ACTIVE_PROMPT, APE, ART, CONTRASTIVE_COT, EMOTION_PROMPT,
        SCRATCHPAD, PROGRAM_OF_THOUGHTS, STRUCTURED_COT, CHAIN_OF_CODE, OPRO, REPHRASE_AND_RESPOND, STEP_BACK,
    )
}  # fmt: skip
