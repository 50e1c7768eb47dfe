"""Operations on packed data sets: merge, split, reshard, subset, migrate, repair, dedupe.

Those that write a data set write an ordinary one: a plan, shards with receipts, indexes, dataset.json. Payloads are
copied byte for byte, so nothing is decoded.
"""
