"""What an agent does not ask of EMR for now, so that the command line says the same as the tasks' logs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; an agent's next word fills it."""
    op.add_column("emr_agent", sa.Column("holds", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("emr_agent", "holds")
