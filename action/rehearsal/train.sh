#!/bin/sh
# A trainer that says it trained for TRAIN_S, which a commit replaces by seconds, and takes longer than that.
sleep 0.05
echo ':::TRAINMARK {"event":"epoch","epoch":1,"loss":0.5,"seconds":TRAIN_S}'
echo ':::TRAINMARK {"event":"trained","train_s":TRAIN_S}'
echo 'Test Accuracy: 95.00%'
