"""Panels of chat models behind OpenAI's protocol: whoever can ask a model can ask an ensemble."""

from modelwright.serve._predicting import Predicting as Predicting
from modelwright.serve._run import Address as Address, app as app, serve as serve
from modelwright.serve._served import ClosedError as ClosedError, FullError as FullError, Served as Served
from modelwright.serve._traces import Trace as Trace
