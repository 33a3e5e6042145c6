"""Conversations and instructions for supervised fine-tuning."""
