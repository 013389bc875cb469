"""Versions of a process: what another definition makes of runs that are open, and how they come to stand on it.

    plans      a plan of migration: a document, with its id
    refusals   why a run can't be migrated by it, one class for each reason
    trial      a flow is driven over a journal that another definition has made, by keys alone
    migrating  plan_for: the journal as the new version has it, or the refusals
    migrated   a run as it stands, and what becomes of it
    proposing  a plan, drawn by trial from a definition and how runs stand
    histories  a run's history as a line of JSON, and what code makes of it without a database (masking)
    templates  a run's input, made from the one that it has

All of it is pure: nothing is called, nothing is written.
"""
