"""People, conversations, feedback, labels, models and exports in SQLite or PostgreSQL: typed functions that hold the SQL.

``opening.open_store`` opens a store; every other public function takes it first, is one transaction, and has committed when it
returns. Functions that touch a person's rows take that person's id and raise NotFound for anybody else's. Loads no torch.
"""
