"""What the commands do that takes more than a call: steps of one command, or shared by several."""
