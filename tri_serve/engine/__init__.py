"""An engine as a supervised process: started, probed, watched and stopped."""
