"""Nearstone and its peers, measured side by side in one run.

The driver (``driver.py``) makes a data set and its exact truth, starts one worker process per peer
(``worker.py``) and lets them answer the same queries in turns, so that a machine that grows slower or faster
hits all of them alike. What a peer can do is said by its adapter (``adapters/``); what came out is written by
``report.py``.

Invariants: one process works at a time, the others are stopped; recall is computed by the driver, from ids
and exact distances, never by the peer; a peer that is missing, crashes or takes too long is named with its
reason in the output.
"""
