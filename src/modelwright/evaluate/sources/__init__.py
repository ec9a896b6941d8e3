"""Tasks from data: files, folders of images, data sets, functions, and task files."""

from modelwright.evaluate.sources._kinds import KINDS as KINDS, Kind as Kind
from modelwright.evaluate.sources._settings import DataSettings as DataSettings, Settings as Settings
from modelwright.evaluate.sources._task import new_items as new_items, task as task, tasks as tasks
