"""The engine: runs plans, writes outputs that are whole or absent, and says what it did."""

from modelwright.engine._card import rewrite_card as rewrite_card
from modelwright.engine._contrast import (
    MOST_SPECTRUM as MOST_SPECTRUM,
    Contrast as Contrast,
    Meeting as Meeting,
    contrast as contrast,
)
from modelwright.engine._folder import LocalFolder as LocalFolder, assembled as assembled
from modelwright.engine._gguf import execute_gguf as execute_gguf
from modelwright.engine._identity import identity as identity, method_source as method_source
from modelwright.engine._lazy import lazy as lazy
from modelwright.engine._licences import LICENCES as LICENCES, Verdict as Verdict, verdict as verdict
from modelwright.engine._lineage import (
    known_manifest as known_manifest,
    lineage as lineage,
    provenance as provenance,
)
from modelwright.engine._manifest import (
    file_hash as file_hash,
    file_hashes as file_hashes,
    manifest_json as manifest_json,
)
from modelwright.engine._output import CHUNK as CHUNK
from modelwright.engine._push import (
    Push as Push,
    Sent as Sent,
    finished as finished,
    prepare_push as prepare_push,
)
from modelwright.engine._run import (
    SHARD_BYTES as SHARD_BYTES,
    Options as Options,
    Progress as Progress,
    Result as Result,
    check_engine as check_engine,
    check_inputs as check_inputs,
    check_out as check_out,
    destination as destination,
    execute as execute,
)
from modelwright.engine._verify import (
    Verification as Verification,
    available as available,
    read_manifest as read_manifest,
    verify as verify,
    verify_again as verify_again,
)
