# The lines of `model.fit` of Keras 3: bars that carriage returns redraw, in colour.
sleep 0.1
for epoch in 1 2 3; do
    printf 'Epoch %s/3\n' "$epoch"
    printf '\r\033[1m 1/50\033[0m \033[37m----\033[0m \033[1m4s\033[0m 90ms/step - accuracy: 0.5000 - loss: 0.6931'
    printf '\r\033[1m50/50\033[0m \033[32m====\033[0m \033[1m1s\033[0m 9ms/step - accuracy: 0.8%s00 - loss: 0.4%s00 - val_accuracy: 0.8%s25 - val_loss: 0.3%s00\n' \
        "$epoch" "$((9 - epoch))" "$epoch" "$((9 - epoch))"
done
