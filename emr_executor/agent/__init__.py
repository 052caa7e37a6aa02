"""DRIVES. asyncio loops: observe, let core decide, write the intent, act, write the result."""
