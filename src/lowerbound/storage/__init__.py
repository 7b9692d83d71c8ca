"""Persistence: models, checkpoints and the folders of runs. Pickle-free; a folder is the old one or the new one.

From the bottom: ``files`` (atomic writes, locks), ``json_data`` and ``tensor_data`` (bytes), ``folder`` (the manifest),
``registry`` (the names of parts), ``parts`` (parts as JSON), ``history``, ``migrations``, ``checkpoints``, ``model``
(save and load), ``run`` (the folder of a fit), ``contents`` (what a folder holds).
"""
